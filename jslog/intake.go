package jslog

import (
	"iter"
	"sync"
)

// intake is the buffer that fills while an append is in flight, and its credits: what is reserved
// and what is filled are its capacity at most. Any goroutine.
type intake struct {
	capacity int // immutable

	mu      sync.Mutex
	free    int           // guarded by mu: bytes neither reserved nor filled
	more    chan struct{} // guarded by mu: closed when take may answer otherwise; nil: none waits
	refusal error         // guarded by mu: why there is no credit any more, or yet; nil: there is
	over    bool          // guarded by mu: there is none any more

	message []byte // guarded by mu: room for a header, then the records
	spare   []byte // guarded by mu: the buffer of the message before; nil: it is in flight
	records uint32 // guarded by mu: in message
	stamp   int64  // guarded by mu: the first one, other than 0
	next    uint64 // guarded by mu: LSN of the next record
}

// init is called before any other goroutine knows in.
func (in *intake) init(capacity int) {
	in.capacity, in.refusal = capacity, ErrClosed
	in.message = make([]byte, headerBytes)
}

// open lets records in, the first with this LSN.
func (in *intake) open(next uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free, in.next = in.capacity, next
	if !in.over {
		in.refusal = nil
	}
}

// take takes n bytes of credit, or says why not; or returns a channel that is closed when there may
// be as many.
func (in *intake) take(n int) (more <-chan struct{}, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.refusal != nil:
		return nil, in.refusal
	case in.free >= n:
		in.free -= n
		return nil, nil
	}
	if in.more == nil {
		in.more = make(chan struct{})
	}
	return in.more, nil
}

// give returns n bytes of credit.
func (in *intake) give(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free += n
	in.wakeLocked()
}

func (in *intake) wakeLocked() {
	if in.more != nil {
		close(in.more)
		in.more = nil
	}
}

// refuse refuses all credits for ever. The first reason counts.
func (in *intake) refuse(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.over {
		in.refusal, in.over = err, true
	}
	in.wakeLocked()
}

// wake has all that wait for credit look again.
func (in *intake) wake() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.wakeLocked()
}

// add appends a record for which there is credit.
func (in *intake) add(record []byte, stamp int64) (lsn uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.message = appendItem(in.message, record)
	in.records++
	if in.stamp == 0 {
		in.stamp = stamp
	}
	lsn = in.next
	in.next++
	return lsn
}

// last is the highest LSN given out.
func (in *intake) last() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return max(in.next, 1) - 1
}

// filled is how many bytes are filled.
func (in *intake) filled() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.message) - headerBytes
}

// batch is what one append carries. The header's room in message is not filled in.
type batch struct {
	message     []byte
	records     uint32
	stamp       int64
	first, last uint64 // of no record: the next LSN, and the one before
}

func (b *batch) all() iter.Seq[[]byte] { return items(b.message[headerBytes:]) }

// seal takes what has filled the buffer, and gives its credit back. sealing gets the last LSN
// before another record can be added.
func (in *intake) seal(sealing func(last uint64)) (b batch) {
	in.mu.Lock()
	defer in.mu.Unlock()
	b = batch{records: in.records, stamp: in.stamp, last: in.next - 1}
	b.first = in.next - uint64(in.records)
	if b.records == 0 {
		return b
	}
	sealing(b.last)
	b.message, in.message, in.spare = in.message, in.spare, nil
	if in.message == nil {
		in.message = make([]byte, headerBytes)
	}
	in.records, in.stamp = 0, 0
	in.free += len(b.message) - headerBytes
	in.wakeLocked()
	return b
}

// idleBytes is how large a buffer may be that is kept although little of it is used: a node has
// many logs, and most are quiet most of the time.
const idleBytes = 32 << 10

// reuse gives the buffer of a batch back that nothing refers to any more.
func (in *intake) reuse(message []byte) {
	if cap(message) > max(idleBytes, 8*len(message)) {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spare = message[:headerBytes]
}
