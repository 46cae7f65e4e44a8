package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// noInteger stands for a number field that is missing or not an integer in plain digits. It is over
// MaxInteger, so the range check that every number field has refuses it.
const noInteger = math.MaxUint64

// notText stands for a string field that holds some other type. One byte of invalid UTF-8 is not
// blank, no id, no status and no source, so every check of a string field refuses it.
var notText = []byte{0xff}

// maxDepth bounds the nesting of values that are skipped, the top-level object included.
const maxDepth = 64

// members are the fields of a heartbeat as its text has them, not checked yet. A string is nil when
// it is missing or null. The strings point into the text.
type members struct {
	schemaVersion, sentAtMS, seq, ttlMS uint64
	userID, deviceID, status, source    []byte

	// For shape: where the values of some fields stood, by valueKind from 1, quotes included, and
	// whether the text was changed.
	spans   [valueCount]span
	escaped bool
}

// parse reads text, which must be one JSON object and nothing after it; else it returns false and m
// means nothing. Escaped strings are unescaped in place: text is changed, and stays the caller's.
func (m *members) parse(text []byte) bool {
	*m = members{schemaVersion: noInteger, sentAtMS: noInteger, seq: noInteger, ttlMS: noInteger}
	p := parser{json: text}
	p.space()
	if !p.take('{') {
		return false
	}
	for p.space(); !p.take('}'); p.space() {
		key, ok := p.key()
		if !ok || !m.member(&p, key) || !p.more('}') {
			return false
		}
	}
	p.space()
	m.escaped = p.escaped
	return p.at == len(p.json)
}

// member reads the value of one member of the top-level object. An unknown one is skipped.
func (m *members) member(p *parser, key []byte) (ok bool) {
	var varies valueKind
	start := p.at
	switch string(key) {
	case "schema_version":
		m.schemaVersion, ok = p.integer()
	case "user_id":
		m.userID, ok = p.string()
		varies = valueUser
	case "device_id":
		m.deviceID, ok = p.string()
		varies = valueDevice
	case "status":
		m.status, ok = p.string()
	case "source":
		m.source, ok = p.string()
		varies = valueSource
	case "sent_at_ms":
		m.sentAtMS, ok = p.integer()
		varies = valueSentAtMS
	case "seq":
		m.seq, ok = p.integer()
		varies = valueSeq
	case "ttl_ms":
		m.ttlMS, ok = p.integer()
		varies = valueTTLMS
	default:
		ok = p.skip(1)
	}
	if varies != valueEnd {
		m.spans[varies-1] = span{uint16(start), uint16(p.at)}
	}
	return ok
}

// parser is a place in a JSON text (json[at] is next). Its methods return false, or ok=false, where
// the text leaves the grammar of RFC 8259.
type parser struct {
	json    []byte
	at      int
	escaped bool // a string was unescaped
}

// peek returns the next byte, 0 at the end. A 0 in the text is no token either.
func (p *parser) peek() byte {
	if p.at < len(p.json) {
		return p.json[p.at]
	}
	return 0
}

// take steps over c if it is next.
func (p *parser) take(c byte) bool {
	if p.peek() != c || c == 0 {
		return false
	}
	p.at++
	return true
}

func (p *parser) space() {
	for p.at < len(p.json) && p.json[p.at] <= ' ' {
		switch p.json[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// more reads what follows an element: a comma and then another element, or the closing byte, which
// it leaves.
func (p *parser) more(closing byte) bool {
	p.space()
	if !p.take(',') {
		return p.peek() == closing
	}
	p.space()
	return p.peek() != closing
}

// key reads a member's name and its colon.
func (p *parser) key() (key []byte, ok bool) {
	if key, ok = p.quoted(); !ok {
		return nil, false
	}
	p.space()
	if !p.take(':') {
		return nil, false
	}
	p.space()
	return key, true
}

// string reads the value of a string field: nil for null, notText for any other type.
func (p *parser) string() (s []byte, ok bool) {
	switch p.peek() {
	case '"':
		return p.quoted()
	case 'n':
		return nil, p.literal("null")
	default:
		return notText, p.skip(1)
	}
}

// integer reads the value of a number field: noInteger for any other type.
func (p *parser) integer() (n uint64, ok bool) {
	if c := p.peek(); c == '-' || '0' <= c && c <= '9' {
		return p.number()
	}
	return noInteger, p.skip(1)
}

// skip reads any value; depth is the number of arrays and objects that it stands in.
func (p *parser) skip(depth int) (ok bool) {
	switch p.peek() {
	case '"':
		_, ok = p.quoted()
	case '{':
		ok = p.skipNested('}', depth+1)
	case '[':
		ok = p.skipNested(']', depth+1)
	case 't':
		ok = p.literal("true")
	case 'f':
		ok = p.literal("false")
	case 'n':
		ok = p.literal("null")
	default:
		_, ok = p.number()
	}
	return ok
}

// skipNested reads an array or an object: closing says which.
func (p *parser) skipNested(closing byte, depth int) bool {
	if depth > maxDepth {
		return false
	}
	p.at++
	for p.space(); !p.take(closing); p.space() {
		if closing == '}' {
			if _, ok := p.key(); !ok {
				return false
			}
		}
		if !p.skip(depth) || !p.more(closing) {
			return false
		}
	}
	return true
}

func (p *parser) literal(word string) bool {
	end := p.at + len(word)
	if end > len(p.json) || string(p.json[p.at:end]) != word {
		return false
	}
	p.at = end
	return true
}

// number reads a number. One with a fraction or an exponent, below zero or over MaxInteger yields
// some value over MaxInteger; -0 is 0.
func (p *parser) number() (n uint64, ok bool) {
	negative := p.take('-')
	if n, ok = p.digits(); !ok {
		return 0, false
	}
	if negative && n > 0 {
		n = noInteger
	}
	if p.take('.') {
		n = noInteger
		if !p.skipDigits() {
			return 0, false
		}
	}
	if p.take('e') || p.take('E') {
		n = noInteger
		_ = p.take('+') || p.take('-')
		if !p.skipDigits() {
			return 0, false
		}
	}
	return n, true
}

// digits reads the integer part of a number: no digit stands behind a leading zero. A value over
// MaxInteger stays so and does not wrap around.
func (p *parser) digits() (n uint64, ok bool) {
	start := p.at
	for len(p.json)-p.at >= 8 {
		eight, count := leadingDigits(binary.LittleEndian.Uint64(p.json[p.at:]))
		if p.at-start < 16 {
			n = n*powersOf10[count] + eight
		} else if count > 0 {
			n = noInteger // of 17 digits at least
		}
		if p.at += count; count < 8 {
			return n, plainLength(p.json[start:p.at])
		}
	}
	for ; p.at < len(p.json); p.at++ {
		d := p.json[p.at] - '0'
		if d > 9 {
			break
		}
		if n <= MaxInteger {
			n = n*10 + uint64(d)
		}
	}
	return n, plainLength(p.json[start:p.at])
}

// plainLength reports that these digits are some, and no digit stands behind a leading zero.
func plainLength(digits []byte) bool {
	return len(digits) == 1 || len(digits) > 1 && digits[0] != '0'
}

var powersOf10 = [9]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8}

// leadingDigits reads the digits with which eight bytes of text begin, the first in the lowest
// byte, and counts them. The digits move to the upper end, behind as many zeros as are missing, and
// then neighbours are joined three times: into numbers of two digits, of four, of eight (Daniel
// Lemire, "Quickly parsing eight digits", 2018).
func leadingDigits(w uint64) (n uint64, count int) {
	const each, low7 = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	w ^= each * '0' // a digit is 0 to 9 now, any other byte more
	other := (w&low7 + each*(0x80-10) | w) & (each * 0x80)
	count = bits.TrailingZeros64(other) / 8
	w <<= 64 - 8*count // by 64 for none: 0
	w = w * (10<<8 + 1) >> 8
	w = w & 0x00ff00ff00ff00ff * (100<<16 + 1) >> 16
	return w & 0x0000ffff0000ffff * (10000<<32 + 1) >> 32, count
}

func (p *parser) skipDigits() bool {
	start := p.at
	for p.at < len(p.json) && p.json[p.at]-'0' <= 9 {
		p.at++
	}
	return p.at > start
}

// quoted reads a string. The result is never nil when ok.
func (p *parser) quoted() (s []byte, ok bool) {
	if !p.take('"') {
		return nil, false
	}
	start := p.at
	for ; p.at < len(p.json); p.at++ {
		if p.at += plainBytes(p.json[p.at:]); p.at == len(p.json) {
			return nil, false
		}
		switch c := p.json[p.at]; {
		case c == '"':
			p.at++
			return p.json[start : p.at-1], true
		case c == '\\':
			return p.unescape(start)
		case c < ' ':
			return nil, false
		}
	}
	return nil, false
}

// plainBytes counts bytes that a string holds as they are, eight at a time; it may stop short of
// the first other one by less than eight.
func plainBytes(text []byte) int {
	const each, high = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(text)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(text[n:])
		quote, backslash := w^each*'"', w^each*'\\' // a byte is 0 where it was found
		// x-each borrows into a byte's high bit when the byte is 0, and w-each*' ' when it is under
		// a space; bytes that had the bit before are none. A borrow may mark a byte too many, but
		// only above a marked one.
		found := ((quote-each)&^quote | (backslash-each)&^backslash | (w-each*' ')&^w) & high
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	return n
}

// unescape reads the rest of a string that began at start, from its first backslash on, and writes
// the unescaped bytes over it: they are never more than the escaped ones, so the writing never
// overtakes the reading.
func (p *parser) unescape(start int) (s []byte, ok bool) {
	p.escaped = true
	end := p.at
	for p.at < len(p.json) {
		c := p.json[p.at]
		p.at++
		switch {
		case c == '"':
			return p.json[start:end], true
		case c < ' ':
			return nil, false
		case c != '\\':
			p.json[end] = c
			end++
		case p.take('u'):
			r, ok := p.codePoint()
			if !ok {
				return nil, false
			}
			end += encode(p.json[end:], r)
		default:
			plain := unescaped[p.peek()]
			if plain == 0 {
				return nil, false
			}
			p.at++
			p.json[end] = plain
			end++
		}
	}
	return nil, false
}

// unescaped is what a backslash and this byte stand for; 0 where that is no escape.
var unescaped = [256]byte{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// codePoint reads the digits behind \u, and a second escape when the two make a surrogate pair.
func (p *parser) codePoint() (r rune, ok bool) {
	if r, ok = p.hex4(); !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	second := *p
	if second.take('\\') && second.take('u') {
		if low, ok := second.hex4(); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				*p = second
				return pair, true
			}
		}
	}
	return r, true // a lone surrogate
}

func (p *parser) hex4() (r rune, ok bool) {
	if p.at+4 > len(p.json) {
		return 0, false
	}
	for _, c := range p.json[p.at : p.at+4] {
		nibble := hexValue[c]
		if nibble == hexNone {
			return 0, false
		}
		r = r<<4 | rune(nibble&0x0f)
	}
	p.at += 4
	return r, true
}

// encode writes r as UTF-8. A lone surrogate becomes the three bytes that UTF-8 would use for it,
// which utf8.Valid refuses where valid text is needed.
func encode(dst []byte, r rune) int {
	if !utf16.IsSurrogate(r) {
		return utf8.EncodeRune(dst, r)
	}
	dst[0], dst[1], dst[2] = byte(0xe0|r>>12), byte(0x80|r>>6&0x3f), byte(0x80|r&0x3f)
	return 3
}
