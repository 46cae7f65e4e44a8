package broadcast

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
