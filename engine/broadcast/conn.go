package broadcast

const (
	// unsentBytes is how much a socket takes that it cannot send yet. Below half of it the kernel
	// says that there is room. Less costs a reading client more writes for a long snapshot; more is
	// memory that a client which does not read can take.
	unsentBytes = 32 << 10

	// sendBufferBytes bounds what a socket holds in all, sent and not acknowledged included, where
	// unsentBytes bounds the rest; plainBufferBytes where only this can be set. Linux doubles both
	// for its own overhead.
	sendBufferBytes  = 256 << 10
	plainBufferBytes = 64 << 10
)

// Conn is one stream's connection. After Subscribe has accepted it, only the worker that owns the
// stream calls it. No method blocks.
type Conn interface {
	// Attach names the stream. From now on the Conn reports to n, under this id, what it becomes
	// ready for: from any goroutine, but not from within one of the Conn's own methods.
	Attach(n Notifier, id StreamID) error

	// Write takes what fits. n < len(p) with a nil error means that it would block: Writable is
	// then reported when there is room again. p is not kept.
	Write(p []byte) (n int, err error)

	// Held is how many bytes that Write took wait for the client in the system's memory, as far as
	// it is known. It is asked when a Write did not fit.
	Held() int

	// Discard reads input and drops it, until there is none left or it has read more than
	// inputLimit. gone means that the client has closed its side, or that the connection is broken.
	Discard(buf []byte) (n int, gone bool)

	// CloseWrite closes our side: the client reads the end after what was written.
	CloseWrite() error

	// Close frees the connection. It is called once.
	Close() error
}

// Readiness is what a connection has become ready for.
type Readiness uint8

// What a Conn reports, as a set of bits.
const (
	Readable Readiness = 1 << iota // there is input to Discard
	Writable                       // a Write that did not fit would fit now, in part at least
	HangUp                         // the client has gone
)

// Notifier takes reports of readiness. The Broadcaster implements it. Ready never blocks for long
// and ignores streams that have ended.
type Notifier interface {
	Ready(id StreamID, r Readiness)
}

// StreamID names a stream: its worker, the slot that it has there, and how often that slot was used
// before. A late report about a stream that has ended therefore never reaches the next one in its
// slot.
type StreamID uint64

const (
	slotBits  = 28
	reuseBits = 28

	maxWorkers = 1 << (64 - slotBits - reuseBits)
	maxSlots   = 1<<slotBits - 2 // slot 0 means none
)

func streamID(worker int, slot, reuse uint32) StreamID {
	return StreamID(worker)<<(slotBits+reuseBits) | StreamID(slot)<<reuseBits | StreamID(reuse)
}

func (id StreamID) worker() int   { return int(id >> (slotBits + reuseBits)) }
func (id StreamID) slot() uint32  { return uint32(id>>reuseBits) & (1<<slotBits - 1) }
func (id StreamID) reuse() uint32 { return uint32(id) & (1<<reuseBits - 1) }
