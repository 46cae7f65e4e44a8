package wire

import (
	"bytes"
	"encoding/binary"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// IDForm is how an identifier is written.
type IDForm uint8

// The forms of an identifier.
const (
	IDInvalid   IDForm = iota // not a UUID in the canonical form
	IDOtherForm               // a UUID in upper case, or with space around it
	IDCanonical               // 36 characters, lowercase
)

// idBytes is the length of an identifier's text.
const idBytes = 36

// hexValue is the value of a hexadecimal digit, with hexUpper set for A to F; hexNone for all else.
var hexValue = func() (values [256]byte) {
	for c := range values {
		values[c] = hexNone
	}
	for d := range byte(10) {
		values['0'+d] = d
	}
	for d := range byte(6) {
		values['a'+d] = 10 + d
		values['A'+d] = 10 + d | hexUpper
	}
	return values
}()

const (
	hexUpper = 0x10
	hexNone  = 0x80
)

// hexPairs is where the sixteen bytes of a UUID stand in its text.
var hexPairs = [16]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// ParseID reads an identifier. The id is valid unless the form is IDInvalid.
func ParseID(text []byte) (id uuid.UUID, form IDForm) {
	if parseCanonicalID(&id, text) {
		return id, IDCanonical
	}
	t := TrimSpace(text)
	if len(t) != idBytes || t[8] != '-' || t[13] != '-' || t[18] != '-' || t[23] != '-' {
		return id, IDInvalid
	}
	var seen byte
	for i, at := range hexPairs {
		high, low := hexValue[t[at]], hexValue[t[at+1]]
		seen |= high | low
		id[i] = high<<4 | low&0x0f
	}
	switch {
	case seen&hexNone != 0 || !hasVersion(&id):
		return id, IDInvalid
	case seen&hexUpper != 0 || len(t) != len(text):
		return id, IDOtherForm
	}
	return id, IDCanonical
}

// hasVersion reports whether the id is of a version and variant of RFC 9562.
func hasVersion(id *uuid.UUID) bool {
	version, variant := id[6]>>4, id[8]>>6
	return version >= 1 && version <= 8 && variant == 0b10
}

// parseCanonicalID reads an identifier in the canonical form, eight digits at a time. It stores the
// id in two words, as the table loads it: a load waits for narrower stores of the same bytes.
func parseCanonicalID(id *uuid.UUID, t []byte) bool {
	if len(t) != idBytes || t[8] != '-' || t[13] != '-' || t[18] != '-' || t[23] != '-' {
		return false
	}
	le := binary.LittleEndian
	a, wrongA := fromHex(le.Uint64(t))
	b, wrongB := fromHex(uint64(le.Uint32(t[9:])) | uint64(le.Uint32(t[14:]))<<32)
	c, wrongC := fromHex(uint64(le.Uint32(t[19:])) | uint64(le.Uint32(t[24:]))<<32)
	d, wrongD := fromHex(le.Uint64(t[28:]))
	le.PutUint64(id[:8], uint64(a)|uint64(b)<<32)
	le.PutUint64(id[8:], uint64(c)|uint64(d)<<32)
	return wrongA|wrongB|wrongC|wrongD == 0 && hasVersion(id)
}

// fromHex turns eight lowercase hexadecimal digits, the first in the lowest byte, into four bytes.
// wrong is 0 when they are digits. No sum here carries from one byte to the next: none is over
// 24+'a'-10.
func fromHex(w uint64) (four uint32, wrong uint64) {
	const each = 0x0101010101010101
	n := w&(each*0x0f) + w>>6&each*9 // a letter, and no number, has bit 6
	letter := (n + each*6) >> 4 & each
	wrong = n&(each*0xf0) | (w ^ (n + each*'0' + letter*('a'-'0'-10)))
	n = (n<<4 | n>>8) & 0x00ff00ff00ff00ff
	n = (n | n>>8) & 0x0000ffff0000ffff
	return uint32(n | n>>16), wrong
}

// TrimSpace cuts white space off both ends, as JavaScript's String.prototype.trim understands it.
func TrimSpace(text []byte) []byte {
	if len(text) > 0 && graphic(text[0]) && graphic(text[len(text)-1]) {
		return text
	}
	return bytes.TrimFunc(text, jsSpace)
}

// graphic reports whether c is a visible ASCII character: no white space begins or ends with it.
func graphic(c byte) bool { return ' ' < c && c < 0x7f }

// jsSpace reports whether r is white space or a line end in ECMAScript: unlike unicode.IsSpace,
// with the byte order mark and without U+0085.
func jsSpace(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return r == ' ' || '\t' <= r && r <= '\r'
	case r == '\ufeff' || r == '\u2028' || r == '\u2029':
		return true
	}
	return unicode.Is(unicode.Zs, r)
}
