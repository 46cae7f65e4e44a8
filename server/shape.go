package server

import (
	"bytes"
	"slices"

	"github.com/google/uuid"

	"rollcall/engine"
)

// maxShapeBytes is the longest line that a shape is learned from.
const maxShapeBytes = 1024

// shape is how the last accepted line of a batch was written: everything but the values that differ from one heartbeat of a
// gateway to the next. A line of the same shape is read by comparing what is between those values: BenchmarkBatch takes 250 ns
// for a heartbeat, of which half is the rest of the handler, and 500 ns with the decoder. It takes no line that the decoder
// would not take, and none with another result: what it compares is the text that the decoder accepted, at a place where it
// stood, and what it reads itself it reads more strictly. Any other line is the decoder's. The zero value takes none.
//
//	{"schema_version":1,"user_id":" … ","device_id":" … ","status":"online", … "seq": … ,"ttl_ms": … }
//	└──────── literal 0 ──────────┘user└── literal 1 ──┘device└─────────────────────┘seq└──────────┘ttl└
//
// Single owner.
type shape struct {
	text   [maxShapeBytes]byte // of the line
	values [valueCount]value   // in the order of the line; none: nothing is learned
	tail   span                // of text, behind the last value
	status engine.Status
	source span // of text
}

// span is a part of a text, which is never longer than maxBodyBytes.
type span struct{ start, end uint16 }

func (s span) of(text []byte) []byte { return text[s.start:s.end] }

// value is a part of the line that may differ, and the literal before it.
type value struct {
	kind   valueKind
	before span // of text
}

type valueKind uint8

const (
	valueNone valueKind = iota
	valueUser
	valueDevice
	valueSentAtMS
	valueSeq
	valueTTLMS

	valueCount = valueTTLMS
)

// learn takes the shape of a line that f was read from and hb accepted.
func (s *shape) learn(line []byte, f *fields, hb *engine.Heartbeat) {
	s.values[0].kind = valueNone
	if f.escaped || len(line) > maxShapeBytes {
		return // unescaping has changed the text
	}
	copy(s.text[:], line)
	spans := f.spans
	for _, id := range []valueKind{valueUser, valueDevice} { // the quotes belong to the literals
		spans[id-1].start++
		spans[id-1].end--
	}
	order := [valueCount]valueKind{valueUser, valueDevice, valueSentAtMS, valueSeq, valueTTLMS}
	slices.SortFunc(order[:], func(a, b valueKind) int { return int(spans[a-1].start) - int(spans[b-1].start) })
	at := uint16(0)
	for i, kind := range order {
		s.values[i] = value{kind, span{at, spans[kind-1].start}}
		at = spans[kind-1].end
	}
	s.tail = span{at, uint16(len(line))}
	s.status = hb.Status
	from := uint16(cap(line) - cap(hb.Source)) // a part of the line that reaches to its end
	s.source = span{from, from + uint16(len(hb.Source))}
}

// read fills hb from a line of this shape. False: it is not, or it is not certain; hb means nothing then.
func (s *shape) read(line []byte, hb *engine.Heartbeat) bool {
	if s.values[0].kind == valueNone {
		return false
	}
	p := parser{json: line}
	var ok bool
	for i := range s.values {
		v := &s.values[i]
		if !s.literal(&p, v.before, hb) {
			return false
		}
		switch v.kind {
		case valueUser:
			hb.User, ok = p.canonicalID()
		case valueDevice:
			hb.Device, ok = p.canonicalID()
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
	return s.literal(&p, s.tail, hb) && p.at == len(line)
}

// literal steps over a literal. The source, which is in one of them, is taken from the line.
func (s *shape) literal(p *parser, l span, hb *engine.Heartbeat) bool {
	rest := p.json[p.at:]
	if !bytes.HasPrefix(rest, l.of(s.text[:])) {
		return false
	}
	if l.start <= s.source.start && s.source.end <= l.end {
		hb.Source = span{s.source.start - l.start, s.source.end - l.start}.of(rest)
	}
	p.at += int(l.end - l.start)
	return true
}

// canonicalID reads an id that is written as it must be.
func (p *parser) canonicalID() (id uuid.UUID, ok bool) {
	if len(p.json)-p.at < idTextLength {
		return id, false
	}
	id, form := parseID(p.json[p.at : p.at+idTextLength])
	p.at += idTextLength
	return id, form == idCanonical
}

// plainInteger reads a number without sign, fraction and exponent. What follows is the next literal's business.
func (p *parser) plainInteger() (n uint64, ok bool) {
	n, ok = p.digits()
	return n, ok && n <= maxInteger
}
