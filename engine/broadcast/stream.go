package broadcast

// stream is a connection that follows a user. Single owner: its worker, but for the fields guarded
// by the inbox's mu.
type stream struct {
	conn    Conn
	backlog *backlog // nil: not blocked
	taking  *taking  // nil: it is in no snapshot
	follow  follow
	list    *listStream // nil: it follows one user

	slot  uint32
	reuse uint32 // how often the slot was used before; changed under inbox.mu
	wrote uint32 // tick of the last progress in writing
	ends  uint32 // tick at which it has to end, or when shut to be closed; 0: none
	filed uint32 // tick of its item in the ring; other items of the slot are void
	input uint32 // bytes that the client sent

	ready   Readiness // reported and not taken by the worker yet; guarded by inbox.mu
	listed  bool      // the slot is in slots.listed; guarded by inbox.mu
	state   streamState
	reason  Reason // why it ends, from ending on
	chunked bool
	lagging bool // something did not fit into the backlog: nothing is added until it is empty
	drains  bool // ends is the turn in draining
	holds   bool // frames of its user, for when its snapshot is over
}

// follow is a stream's interest in one user. Single owner: the stream's worker.
type follow struct {
	user       *user    // nil: the follow has ended
	through    uint64   // written or in the backlog is all of the user at or below this LSN (B3)
	next, prev followID // of the same user; 0: none
}

// followID names a follow. A stream has one, inside it, and so the stream's slot names it. 0 means
// none.
type followID uint32

type streamState uint8

const (
	free   streamState = iota // the slot is not in use
	open                      // follows its user
	ending                    // its last bytes are in the backlog
	shut                      // all is written and CloseWrite done: waits for the client to close
)
