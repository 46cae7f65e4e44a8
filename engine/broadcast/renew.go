package broadcast

import "github.com/google/uuid"

// StreamIDLen is the length of a stream's id as text.
const StreamIDLen = 24

// ParseStreamID reads a stream's id from its text; false: it is none of this process. Any
// goroutine.
func (b *Broadcaster) ParseStreamID(text string) (StreamID, bool) {
	return 0, false
}

// Fits decides whether a stream may be renewed, which an owner opened and which follows users. The
// stream's worker calls it: it must not block.
type Fits func(owner [16]byte, users func(yield func(uuid.UUID) bool)) bool

// Renew moves the end of a stream to an instant on the clock of Tick; 0: never. ErrNoStream: it has ended; ErrUnfit: fits refused. It waits for the worker's answer, so
// it may be called between Start and Close only. Any goroutine.
func (b *Broadcaster) Renew(id StreamID, expiresNanos int64, fits Fits) error {
	return ErrNoStream
}
