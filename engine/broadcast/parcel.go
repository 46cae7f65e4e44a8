package broadcast

import (
	"strconv"

	"github.com/google/uuid"
)

const (
	lastChunk     = "0\r\n\r\n"
	keepaliveText = ": keepalive\n\n"
	chunkRoom     = len("7FFFFFFF\r\n") // of the longest chunk header
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
	key     parcelKey
	frames  int    // events in it, when it holds events
	through uint64 // a stream that has taken it has everything at or below this LSN

	bytes []byte // room, header, text, end
	start int    // where the header begins
	end   int    // where the text ends
}

// parcelKey is what the text depends on. The text of a range of LSNs stays right when the table
// moves on: what it leaves out for being newer is in events that follow it.
type parcelKey struct {
	user         uuid.UUID
	after, until uint64
	limit        int
	snapshot     bool
}

// begin is where to append the text.
func (p *parcel) begin(key parcelKey) []byte {
	var room [chunkRoom]byte
	p.key, p.frames = key, 0
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

// parcels make the text that streams are owed, and keep the last one. Single owner: the worker.
type parcels struct {
	codec Codec
	last  parcel
}

// owed is the parcel of a stream that has everything of a user through after: frames while the user
// still has them, else a snapshot through the worker's through of the user's source.
func (ps *parcels) owed(u *user, after uint64, limit int, through uint64) *parcel {
	if after < u.base {
		return ps.snapshot(u, after, through)
	}
	p := &ps.last
	if key := (parcelKey{u.id, after, u.last, limit, false}); p.key != key {
		text, frames, through := u.fan.span(after, limit)
		p.seal(append(p.begin(key), text...), frames, through)
	}
	return p
}

// snapshot is the parcel of the newest state of the user's devices that changed in (after,
// through]. The worker has not taken the events above through yet, and the codec leaves their
// devices out (B2).
func (ps *parcels) snapshot(u *user, after, through uint64) *parcel {
	p := &ps.last
	if key := (parcelKey{u.id, after, through, snapshotLimit, true}); p.key != key {
		text := ps.codec.AppendSnapshot(p.begin(key), u.source, u.id, after, through)
		p.seal(text, 0, through)
	}
	return p
}

const snapshotLimit = -1 // a snapshot has none

// trim gives the memory of an unusually long text back.
func (ps *parcels) trim() {
	if cap(ps.last.bytes) > keepBytes {
		ps.last = parcel{}
	}
}
