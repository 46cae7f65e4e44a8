package conns

import "net/netip"

// Requests serves the plain requests of a loop's connections: those that are whole, that everything
// is right with, and whose answers take no more than a commit. All others are fasthttp's.
//
// Read, Apply, Submit and Append are called by one goroutine at a time, the others by any.
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
	// Later is how requests are answered one by one, in any order; nil: Apply and Commit are used.
	// Constant.
	Later() Later

	// Commit returns when lsn is committed, or why it is not. It does the work on the calling
	// goroutine, and is short, unless the disk hangs.
	Commit(lsn uint64) error
	// Committed is the highest LSN that is committed.
	Committed() uint64
	// Stalled returns why requests are no longer kept waiting for a commit, nil where they are.
	Stalled() error
}

// GroupSize is the most that Requests.GroupSize may be.
const GroupSize = 32

// Later takes requests, and has the answers later: they come from elsewhere, each when it can.
type Later interface {
	// Submit takes the requests that Requests.Read has taken since the last call, in their order,
	// each under a token, and does not wait.
	Submit(tokens []uint64)
	// Collect waits until there are answers, and returns them. It may use spare for that. None:
	// Close was called. One goroutine calls it.
	Collect(spare []Told) []Told
	// Close ends Collect.
	Close()
}

// Told is the answer to the request of a token: as it is, or Err is why there is none.
type Told struct {
	Token uint64
	Answer
	Err error
}

// Answer is what came of a plain request.
type Answer struct {
	Stale   bool // else it was accepted
	LastSeq uint64
}
