package broadcast

import (
	"strconv"

	"github.com/google/uuid"
)

const (
	lastChunk = "0\r\n\r\n"
	chunkRoom = len("7FFFFFFF\r\n") // of the longest chunk header

	// keepaliveText has no blank line: a client that dispatches at each one would take it for an
	// empty event.
	keepaliveText = ": keepalive\n"
)

// appendChunk appends text as one chunk of a chunked body, or plainly. An empty chunk would end the
// body: no text, no chunk.
func appendChunk(dst []byte, text string, chunked bool) []byte {
	if !chunked || text == "" {
		return append(dst, text...)
	}
	dst = strconv.AppendUint(dst, uint64(len(text)), 16)
	dst = append(dst, "\r\n"...)
	dst = append(dst, text...)
	return append(dst, "\r\n"...)
}

// parcel is text on its way to streams, written once for all that are owed the same: the chunk's
// header lies right in front of it and the chunk's end right behind, so that the plain form is a
// part of the same bytes.
type parcel struct {
	frames  int    // events in it, when it holds events
	through uint64 // a stream that has taken it has everything at or below this LSN

	bytes []byte // room, header, text, end
	start int    // where the header begins
	end   int    // where the text ends
}

// begin is where to append the text.
func (p *parcel) begin() []byte {
	var room [chunkRoom]byte
	return append(p.bytes[:0], room[:]...)
}

// seal makes a chunk of what begin's buffer has become.
func (p *parcel) seal(bytes []byte, frames int, through uint64) {
	var header [chunkRoom]byte
	h := strconv.AppendUint(header[:0], uint64(len(bytes)-chunkRoom), 16)
	h = append(h, "\r\n"...)
	p.start = chunkRoom - len(h)
	copy(bytes[p.start:], h)
	p.end = len(bytes)
	p.bytes = append(bytes, "\r\n"...)
	p.frames, p.through = frames, through
}

// form is the parcel as a stream takes it; empty when there is no text.
func (p *parcel) form(chunked bool) []byte {
	switch {
	case p.end == chunkRoom:
		return nil
	case chunked:
		return p.bytes[p.start:]
	default:
		return p.bytes[chunkRoom:p.end]
	}
}

// parcels make the text of frames that streams are owed, and keep the last one. Single owner: the
// worker.
type parcels struct {
	key  parcelKey
	last parcel
}

// parcelKey is what the text depends on.
type parcelKey struct {
	user         uuid.UUID
	after, until uint64
	limit        int
}

// owed is the parcel of a stream that has everything of a user through after, which is not below
// the user's base.
func (ps *parcels) owed(u *user, after uint64, limit int) *parcel {
	p := &ps.last
	if key := (parcelKey{u.id, after, u.last, limit}); ps.key != key {
		text, frames, through := u.fan.span(after, limit)
		ps.key = key
		p.seal(append(p.begin(), text...), frames, through)
	}
	return p
}

// trim gives the memory of an unusually long text back.
func (ps *parcels) trim() {
	if cap(ps.last.bytes) > keepBytes {
		*ps = parcels{}
	}
}
