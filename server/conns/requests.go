package conns

import "net/netip"

// Requests serves the plain requests of a loop's connections: those that are whole, that everything
// is right with, and whose answers take no more than a commit. All others are fasthttp's.
//
// Read, Apply and Append are called by one goroutine at a time, the others by any.
type Requests interface {
	// Read looks at what a client has sent and not been answered yet. The text begins with a
	// request. If that is plain, its size is returned, and Apply will apply it; 0: it is
	// fasthttp's; less than 0: the bytes that are missing decide. The text stays as it is until
	// Apply.
	Read(client netip.Addr, text []byte) (size int)
	// Apply applies the requests that Read has taken since the last call, in their order, and sets
	// their answers. n of them are applied, and may be answered when lsn is committed. The one
	// behind them is fasthttp's, and those behind it must be read again: nothing was done for them.
	Apply(answers []Answer) (n int, lsn uint64)
	// Append appends the text of answers to a client, in their order, which can be given: as they
	// are, or because what they depend on was not committed. It counts them. last: the client was
	// told that the connection ends.
	Append(text []byte, answers []Answer, err error) (_ []byte, last bool)

	// GroupSize is how many requests are taken before Apply, GroupSize at most. Constant.
	GroupSize() int
	// Commit returns when lsn is committed, or why it is not. If Local, it does the work on the
	// calling goroutine.
	Commit(lsn uint64) error
	// Local says that Commit is short, unless the disk hangs, and is best made by the goroutine
	// that applied. Constant.
	Local() bool
	// Committed is the highest LSN that is committed.
	Committed() uint64
	// Stalled returns why requests are no longer kept waiting for a commit, nil where they are.
	Stalled() error
}

// GroupSize is the most that Requests.GroupSize may be.
const GroupSize = 32

// Answer is what came of a plain request.
type Answer struct {
	Stale   bool // else it was accepted
	LastSeq uint64
}
