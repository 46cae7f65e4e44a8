package cursor

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
)

// Cursor is what a client has.
type Cursor struct {
	View     byte   // the stream's view
	LingerMS uint32 // and its linger
	List     uint64 // which users: History.List
	LSN      uint64 // everything through it was sent
	Newest   uint64 // and of some users states through it, where that is above LSN
	ToldMS   uint64 // when that was, by the server's clock, in unix milliseconds
}

const (
	version = 1
	// rawBytes is the length of a cursor before base64 at most.
	rawBytes   = 1 + 1 + 8 + binary.MaxVarintLen32 + 8 + 3*binary.MaxVarintLen64 + checkBytes
	checkBytes = 4
	// MaxText is the length of a cursor's text at most, in bytes.
	MaxText = (rawBytes*8 + 5) / 6
)

var (
	text       = base64.RawURLEncoding.Strict()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// scratch is how much room Append wants in dst: the text, and behind it the bytes that it is made
// of, which would be allocated anywhere else.
const scratch = MaxText + rawBytes

// Append appends the text of a cursor of the running epoch. It allocates nothing but room in dst,
// some 100 bytes of it. Any goroutine, after Begin.
func (h *History) Append(dst []byte, c Cursor) []byte {
	epochs := h.epochs.Load()
	if epochs == nil {
		panic("bug: a cursor before its epoch has begun")
	}
	dst = slices.Grow(dst, scratch)
	b := append(dst[len(dst)+MaxText:len(dst)+MaxText], version, c.View)
	b = binary.LittleEndian.AppendUint64(b, epochs.running().id)
	b = binary.AppendUvarint(b, uint64(c.LingerMS))
	b = binary.LittleEndian.AppendUint64(b, c.List)
	b = binary.AppendUvarint(b, c.LSN)
	b = binary.AppendUvarint(b, max(c.Newest, c.LSN)-c.LSN)
	b = binary.AppendUvarint(b, c.ToldMS)
	b = binary.LittleEndian.AppendUint32(b, h.check(b))
	return text.AppendEncode(dst, b)
}

// Parse reads a cursor that a client brought, of any length and content. False: this history does
// not honour it (Q1, Q3). Newest is at least LSN. Any goroutine, at any time; before Begin there is
// none to honour.
func (h *History) Parse(given []byte) (c Cursor, ok bool) {
	var raw [rawBytes]byte
	// The decoder would skip line breaks.
	if len(given) > MaxText || bytes.ContainsAny(given, "\r\n") {
		return Cursor{}, false
	}
	n, err := text.Decode(raw[:], given)
	if err != nil || n < checkBytes {
		return Cursor{}, false
	}
	b, check := raw[:n-checkBytes], binary.LittleEndian.Uint32(raw[n-checkBytes:])
	if h.check(b) != check {
		return Cursor{}, false
	}
	r := reader{rest: b}
	known := r.byte() == version
	c.View = r.byte()
	epoch := r.uint64()
	linger := r.uvarint()
	c.List = r.uint64()
	c.LSN = r.uvarint()
	more := r.uvarint()
	c.ToldMS = r.uvarint()
	if !known || r.failed || len(r.rest) > 0 || linger > math.MaxUint32 || c.LSN+more < c.LSN {
		return Cursor{}, false
	}
	c.LingerMS, c.Newest = uint32(linger), c.LSN+more
	if !h.has(epoch, c.Newest) {
		return Cursor{}, false
	}
	return c, true
}

// check is what stands at the end of a cursor, see the package comment.
func (h *History) check(b []byte) uint32 { return crc32.Update(h.seed, castagnoli, b) }

// reader takes a cursor's fields off its bytes.
type reader struct {
	rest   []byte
	failed bool // there were too few
}

func (r *reader) byte() byte {
	if len(r.rest) < 1 {
		r.failed = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uint64() uint64 {
	if len(r.rest) < 8 {
		r.failed = true
		return 0
	}
	n := binary.LittleEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return n
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}
