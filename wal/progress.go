package wal

import "sync/atomic"

// progress is how far the log is, for the goroutines that wait for it. Single writer: the commit
// loop, and before it Start, or Close of a log that was never started. Any goroutine reads and
// waits.
type progress struct {
	_ [64]byte // keeps the words that every waiter reads off the lines before

	// committed is the highest committed LSN: written, and synced in SyncAlways. Stored after the
	// write (and sync) returned; Append rebuilds LSNs with it. Only grows.
	committed atomic.Uint64
	// durable is the highest synced LSN. Stored after the sync returned; a waiter that sees
	// durable >= its LSN may acknowledge. Only grows (W3).
	durable atomic.Uint64
	// waiting publishes the channels of the two batches; pairs with wait.
	waiting atomic.Pointer[waiting]
	// end is why nothing more will be committed: ErrClosed or the failure. Stored before the
	// channels are closed.
	end atomic.Pointer[outcome]
	_   [32]byte // and off those behind

	failed chan struct{} // closed at the first failure
}

// outcome boxes an error for an atomic pointer.
type outcome struct{ err error }

// waiting tells a waiter which channel to wait on. It is immutable; the commit loop publishes a new
// one after each sealing.
type waiting struct {
	sealed   uint64        // last LSN of the batch in flight; later ones are in the filling one
	inFlight chan struct{} // done of the batch in flight
	filling  chan struct{} // done of the filling batch
}

// channel returns a channel that is closed no later than lsn is committed. It may be an earlier
// batch's: then the waiter looks again (wait loops). It is never a later one's, which might not
// come:
//
//	waiter                               commit loop
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

// begin makes everything up to last committed and durable. filling is done of the first batch.
func (p *progress) begin(last uint64, filling chan struct{}) {
	p.committed.Store(last)
	p.durable.Store(last)
	w := &waiting{sealed: last, inFlight: make(chan struct{}), filling: filling}
	before := p.waiting.Swap(w)
	close(before.inFlight) // a waiter for a record that was being replayed looks again
	close(before.filling)
}

// seal publishes the channels of the batch in flight and of the one that fills after it.
func (p *progress) seal(sealed uint64, inFlight, filling chan struct{}) {
	p.waiting.Store(&waiting{sealed: sealed, inFlight: inFlight, filling: filling})
}

// wait returns nil when lsn is durable, or why it never will be.
func (p *progress) wait(lsn uint64) error {
	for p.durable.Load() < lsn {
		if end := p.end.Load(); end != nil {
			// The commit loop stores durable for the last time before end.
			if p.durable.Load() >= lsn {
				return nil
			}
			return end.err
		}
		<-p.waiting.Load().channel(lsn)
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
	p.end.Store(&outcome{err})
	w := p.waiting.Load()
	closeOnce(w.inFlight)
	closeOnce(w.filling)
}

// closeOnce closes a channel that only the calling goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
