package broadcast

import (
	"github.com/google/uuid"
)

// stream is one client following one user. Single writer: its worker, except where noted.
type stream struct {
	conn    Conn
	user    *user    // nil: it is told no more events
	backlog *backlog // nil: not blocked
	through uint64   // every event of the user at or below this LSN is written or in the backlog (B3)

	next, prev uint32 // streams of the same user
	slot       uint32
	reuse      uint32 // how often the slot was used before; changed under inbox.mu

	wrote uint32 // tick of the last progress in writing
	ends  uint32 // tick at which it has to end, or when shut to be closed; 0: none
	filed uint32 // tick of its item in the ring; other items of the slot are void
	input uint32 // bytes that the client sent

	ready   Readiness // reported, not taken by the worker yet; guarded by inbox.mu
	listed  bool      // the slot is in inbox.ready; guarded by inbox.mu
	state   streamState
	reason  Reason // why it ends, from ending on
	chunked bool
	lagging bool // something did not fit into the backlog: nothing is added until it is empty
	drains  bool // ends is the turn in draining
}

type streamState uint8

const (
	free   streamState = iota // the slot is not in use
	open                      // follows its user
	ending                    // its last bytes are in the backlog
	shut                      // all is written and CloseWrite done: waits for the client to close
)

// backlog is what was owed to a stream when its connection took no more: whole chunks, but for the first.
type backlog struct {
	bytes []byte
	sent  int // of bytes
}

func (b *backlog) left() int { return len(b.bytes) - b.sent }

// add appends a chunk, moving what is left to the front when that makes room.
func (b *backlog) add(p []byte) {
	if b.sent > 0 && len(b.bytes)+len(p) > cap(b.bytes) {
		n := copy(b.bytes, b.bytes[b.sent:])
		b.bytes, b.sent = b.bytes[:n], 0
	}
	b.bytes = append(b.bytes, p...)
}

// Streams lie in chunks, so that growing moves none of them.
const chunkSlots = 256

type slotChunk [chunkSlots]stream

// user is one user with streams. Single writer: its worker.
//
// What its streams are told lies in fan: the frames of the events in (base, last]. A stream with through >= base is
// owed the frames above through; one below base is owed the newest state of what changed above through, since the
// frames in between are gone (B4).
type user struct {
	id         uuid.UUID
	base, last uint64
	lap        uint64 // every stream that the present lap has passed was visited when last was at least this
	fan        *fan   // nil: no frames
	first      uint32 // its streams
	count      uint32
	cursor     uint32 // the stream that the lap visits next; 0: no lap has begun
	queued     bool   // it is in worker.laps
}

// fan is the text of a user's frames.
type fan struct {
	text   []byte
	frames []frame // in LSN order
}

// frame is one event's text, which ends at end and begins where the one before ends.
type frame struct {
	lsn uint64
	end int
}

// span finds the text of the frames above an LSN: as many as fit into limit bytes, but at least one. There must be
// one. through is the LSN of the last of them.
func (f *fan) span(after uint64, limit int) (text []byte, count int, through uint64) {
	i := f.above(after)
	start := f.start(i)
	j := i + 1
	for j < len(f.frames) && f.frames[j].end-start <= limit {
		j++
	}
	return f.text[start:f.frames[j-1].end], j - i, f.frames[j-1].lsn
}

// above is the index of the first frame above an LSN.
func (f *fan) above(lsn uint64) int {
	low, high := 0, len(f.frames)
	for low < high {
		if mid := int(uint(low+high) / 2); f.frames[mid].lsn > lsn {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

func (f *fan) start(i int) int {
	if i == 0 {
		return 0
	}
	return f.frames[i-1].end
}

// cut drops the frames at or below an LSN.
func (f *fan) cut(lsn uint64) {
	i := f.above(lsn)
	start := f.start(i)
	f.text = f.text[:copy(f.text, f.text[start:])]
	f.frames = f.frames[:copy(f.frames, f.frames[i:])]
	for k := range f.frames {
		f.frames[k].end -= start
	}
}
