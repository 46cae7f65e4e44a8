package wire

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/google/uuid"

	"rollcall/record"
)

// maxShapeBytes is the longest text that a shape is learned from.
const maxShapeBytes = 1024

// shape is how an accepted text was written: everything but the values that differ from one
// heartbeat to the next. A text of the same shape is read by comparing what is between those
// values: BenchmarkBatch takes 250 ns for a heartbeat, of which half is the rest of the handler,
// and 500 ns with the decoder. It takes no text that the decoder would not take, and none with
// another result: what it compares is the text that the decoder accepted, at a place where it
// stood, and what it reads itself it reads more strictly. Any other text is the decoder's. The zero
// value takes no text.
//
//	{"schema_version":1,"user_id":" … ","device_id":" … ","status":"online","source": … , … }
//	└──────── literal 0 ──────────┘user└── literal 1 ──┘device└─── literal 2 ─────┘source└───
//
// Single owner.
type shape struct {
	text   [maxShapeBytes]byte // of the learned text
	values [valueCount]value   // in the order of the text; none: nothing is learned
	tail   span                // of text, behind the last value
	status record.Status
}

// span is a part of a text, which is never longer than MaxBodyBytes.
type span struct{ start, end uint16 }

func (s span) of(text []byte) []byte { return text[s.start:s.end] }

// value is a part that may differ, and the literal before it.
type value struct {
	kind   valueKind
	before span // of text
}

type valueKind uint8

const (
	valueNone valueKind = iota
	valueUser
	valueDevice
	valueSource // with its quotes; those of the ids belong to the literals
	valueSentAtMS
	valueSeq
	valueTTLMS

	valueCount = valueTTLMS
)

// learn takes the shape of a text that m was parsed from and that hb is, if it can.
func (s *shape) learn(text []byte, m *members, hb *Heartbeat) {
	if m.escaped || len(text) > maxShapeBytes {
		return // unescaping has changed the text
	}
	copy(s.text[:], text)
	spans := m.spans
	for _, id := range []valueKind{valueUser, valueDevice} {
		spans[id-1].start++
		spans[id-1].end--
	}
	order := [valueCount]valueKind{valueUser, valueDevice, valueSource, valueSentAtMS, valueSeq,
		valueTTLMS}
	slices.SortFunc(order[:], func(a, b valueKind) int {
		return int(spans[a-1].start) - int(spans[b-1].start)
	})
	at := uint16(0)
	for i, kind := range order {
		s.values[i] = value{kind, span{at, spans[kind-1].start}}
		at = spans[kind-1].end
	}
	s.tail = span{at, uint16(len(text))}
	s.status = hb.Status
}

// match fills hb from a text of this shape. False: the text is of another shape, or the decoder has
// to judge it; hb means nothing then.
func (s *shape) match(text []byte, hb *Heartbeat) bool {
	if s.values[0].kind == valueNone {
		return false
	}
	p := parser{json: text}
	var ok bool
	for i := range s.values {
		v := &s.values[i]
		if !s.literal(&p, v.before) {
			return false
		}
		switch v.kind {
		case valueUser:
			ok = p.canonicalID(&hb.User)
		case valueDevice:
			ok = p.canonicalID(&hb.Device)
		case valueSource:
			hb.Source, ok = p.plainSource()
		case valueSentAtMS:
			hb.SentAtMS, ok = p.plainInteger()
		case valueSeq:
			hb.Seq, ok = p.plainInteger()
		case valueTTLMS:
			hb.TTLMS, ok = p.plainInteger()
			ok = ok && hb.TTLMS > 0
		}
		if !ok {
			return false
		}
	}
	hb.Status = s.status
	return s.literal(&p, s.tail) && p.at == len(text)
}

// literal steps over a literal.
func (s *shape) literal(p *parser, l span) bool {
	if !bytes.HasPrefix(p.json[p.at:], l.of(s.text[:])) {
		return false
	}
	p.at += int(l.end - l.start)
	return true
}

// canonicalID reads an id in the canonical form.
func (p *parser) canonicalID(id *uuid.UUID) bool {
	if len(p.json)-p.at < idBytes {
		return false
	}
	p.at += idBytes
	return parseCanonicalID(id, p.json[p.at-idBytes:p.at])
}

// plainSource reads a source of ASCII, without escapes, and returns it trimmed.
func (p *parser) plainSource() (source []byte, ok bool) {
	if !p.take('"') {
		return nil, false
	}
	start := p.at
	for ; p.at < len(p.json); p.at++ {
		if c := p.json[p.at]; c == '"' {
			break
		} else if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			return nil, false
		}
	}
	source = TrimSpace(p.json[start:p.at])
	return source, p.take('"') && len(source) > 0 && len(source) <= MaxSourceBytes
}

// plainInteger reads the digits of a number. The next literal checks what follows them.
func (p *parser) plainInteger() (n uint64, ok bool) {
	n, ok = p.digits()
	return n, ok && n <= MaxInteger
}
