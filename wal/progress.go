package wal

import (
	"sync"
	"sync/atomic"
)

// progress is how far the log is, for the goroutines that wait for it. Any goroutine reads and
// waits. The turns move it on, and before them Start, or Close of a log that was never
// started; the watcher of stalls ends the waits of a commit that does not end.
//
// It owns the channels that waiters sleep on, two at a time: of the batch in flight and of the one
// that is filling. A waiter takes no lock and sets no timer. It loads waiting, looks whether it
// has to sleep at all, and then receives, in this order (wait). The other order could sleep as
// long as the disk does:
//
//	waiter                               watcher
//	loads stalled: false
//	                                     stores stalled
//	                                     publishes two fresh channels, closes the old ones
//	loads waiting: a fresh channel
//	sleeps until the commit ends
//
// With waiting loaded first, either it is the old one, whose channels the watcher closes, or the
// fresh one, and then stalled was stored before it. If stalled is false again by then, the commit
// has ended, and with it the wait for its records; later ones are the next batch's. So no waiter
// sleeps through a stall, and none spins: a channel that is closed is no longer in waiting, or its
// records are committed.
type progress struct {
	_ [64]byte // keeps the words that every waiter reads off the lines before

	// committed is the highest committed LSN: written, and synced in SyncAlways. Stored after the
	// write (and sync) returned; a waiter that sees committed >= its LSN may acknowledge. Append
	// rebuilds LSNs with it. Only grows (W3).
	committed atomic.Uint64
	// durable is the highest synced LSN. Stored after the sync returned. Only grows (W3).
	durable atomic.Uint64
	// waiting publishes the channels of the two batches; pairs with wait.
	waiting atomic.Pointer[waiting]
	// end is why nothing more will be committed: ErrClosed or the failure. Stored before the
	// channels are closed.
	end atomic.Pointer[outcome]
	// stalled says that the commit in flight takes too long to be waited for. Guarded by mu; a
	// waiter loads it after waiting.
	stalled atomic.Bool
	_       [31]byte // and off those behind

	// mu guards what is published in waiting and the closing of its channels, and stalled. The
	// holder of turns takes it a few times a batch, the watcher when a stall begins.
	mu sync.Mutex

	failed chan struct{} // closed at the first failure
}

// outcome boxes an error for an atomic pointer.
type outcome struct{ err error }

// waiting tells a waiter which channel to wait on. It is immutable; a turn publishes a new
// one after each sealing, the watcher at each stall.
type waiting struct {
	sealed   uint64        // last LSN of the batch in flight; later ones are in the filling one
	inFlight chan struct{} // closed when the batch in flight is committed or no longer waited for
	filling  chan struct{} // the same of the filling batch
}

// channel returns a channel that is closed no later than lsn is committed. It may be an earlier
// batch's: then the waiter looks again (wait loops). It is never a later one's, which might not
// come:
//
//	waiter                               turn
//	                                     seals batch 7, whose waiting says
//	                                     {sealed: 6's last, filling: 7}
//	appends to batch 8, loads waiting:
//	lsn > 6's last: waits for 7          publishes {sealed: 7's last, inFlight: 7, filling: 8}
//	                                     commits 7, closes its channel
//	wakes, loads waiting: waits for 8
func (w *waiting) channel(lsn uint64) <-chan struct{} {
	if lsn <= w.sealed {
		return w.inFlight
	}
	return w.filling
}

// init is called before any other goroutine knows p.
func (p *progress) init() {
	p.failed = make(chan struct{})
	p.waiting.Store(&waiting{inFlight: make(chan struct{}), filling: make(chan struct{})})
}

// begin makes everything up to last committed and durable.
func (p *progress) begin(last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.durable.Store(last)
	p.committed.Store(last)
	p.freshLocked(last) // a waiter for a record that was being replayed looks again
}

// freshLocked publishes new channels and wakes those that wait on the old ones: they look again.
func (p *progress) freshLocked(sealed uint64) {
	before := p.waiting.Swap(
		&waiting{sealed: sealed, inFlight: make(chan struct{}), filling: make(chan struct{})})
	before.closeLocked()
}

// closeLocked wakes all that wait on w. The channel of a batch that is committed is closed already.
func (w *waiting) closeLocked() {
	closeOnce(w.inFlight)
	closeOnce(w.filling)
}

// seal makes the batch that was filling the one in flight; sealed is its last LSN.
func (p *progress) seal(sealed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting.Store(&waiting{
		sealed: sealed, inFlight: p.waiting.Load().filling, filling: make(chan struct{}),
	})
}

// commit moves the committed LSN to the end of the batch in flight and wakes its waiters at once.
func (p *progress) commit(last uint64) {
	p.committed.Store(last) // before the channel is closed: a waiter that wakes sees it
	p.mu.Lock()
	defer p.mu.Unlock()
	closeOnce(p.waiting.Load().inFlight)
}

// wait returns nil when lsn is committed, why it never will be, or ErrStalled.
func (p *progress) wait(lsn uint64) error {
	for p.committed.Load() < lsn {
		w := p.waiting.Load() // before end and stalled, see the type
		if end := p.end.Load(); end != nil {
			// The last turn stores committed before end.
			if p.committed.Load() >= lsn {
				return nil
			}
			return end.err
		}
		if p.stalled.Load() {
			return ErrStalled
		}
		<-w.channel(lsn)
	}
	return nil
}

// failure returns the failure, wrapped in ErrFailed; nil while there is none.
func (p *progress) failure() error {
	if end := p.end.Load(); end != nil && end.err != ErrClosed {
		return end.err
	}
	return nil
}

// endWith tells every waiter, now and later, that nothing more will be committed.
func (p *progress) endWith(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end.Store(&outcome{err})
	p.waiting.Load().closeLocked()
}

// closeOnce closes a channel that only holders of progress.mu close.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
