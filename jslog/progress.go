package jslog

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// progress is how far the appends are, for the goroutines that wait for them. Any goroutine reads
// and waits; the appender moves it on.
//
// A waiter for a record loads turn, then looks whether it has to wait at all, and then sleeps on a
// channel of that turn. What ends a wait is stored before the channels of the turn are closed: so
// no waiter sleeps on a channel that is not going to be closed.
//
// Lock order: the intake's before this one.
type progress struct {
	committed atomic.Uint64 // highest LSN that was acknowledged; only grows
	stalled   atomic.Bool   // the append in flight takes too long to be waited for
	over      atomic.Pointer[error]
	turn      atomic.Pointer[turn]
	failed    chan struct{} // closed when over is an ErrLost

	epoch    time.Time    // when the claim began: the zero of the next two; immutable
	inFlight atomic.Int64 // nanoseconds when the append in flight began, odd; 0: none is
	acked    atomic.Int64 // the same of the last one that was acknowledged

	mu    sync.Mutex // guards what is published in turn and the closing of its channels
	begun uint64     // guarded by mu: appends that have begun
	ended uint64     // guarded by mu: of these, how many were acknowledged
	// acks is closed when ended, over or stalled changes; nil: none waits for it. Guarded by mu.
	acks chan struct{}
}

// turn is the channels that waiters for records sleep on. Immutable.
type turn struct {
	sealed  uint64        // last LSN of the batch in flight; later ones are in the filling one
	flying  chan struct{} // closed when the batch in flight has ended or is not waited for
	filling chan struct{} // the same of the next one
}

// init is called before any other goroutine knows p.
func (p *progress) init(claimed time.Time) {
	p.failed = make(chan struct{})
	p.epoch = claimed
	p.turn.Store(&turn{flying: make(chan struct{}), filling: make(chan struct{})})
}

// begin makes everything up to last committed.
func (p *progress) begin(last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed.Store(last)
	p.freshLocked(last)
}

// freshLocked publishes new channels and wakes all that wait: they look again.
func (p *progress) freshLocked(sealed uint64) {
	old := p.turn.Swap(
		&turn{sealed: sealed, flying: make(chan struct{}), filling: make(chan struct{})})
	closeOnce(old.flying)
	closeOnce(old.filling)
	p.acksLocked()
}

func (p *progress) acksLocked() {
	if p.acks != nil {
		close(p.acks)
		p.acks = nil
	}
}

// seal makes the batch that was filling, up to this LSN, the one in flight.
func (p *progress) seal(last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn.Store(
		&turn{sealed: last, flying: p.turn.Load().filling, filling: make(chan struct{})})
}

// beginAppend says that an append is in flight from now on, and returns its number.
func (p *progress) beginAppend() (number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	p.inFlight.Store(int64(time.Since(p.epoch)) | 1)
	return p.begun
}

// ack says that the append in flight was acknowledged, and with it all records up to an LSN. It
// ends the stall, if there is one, and returns how long the append has taken.
func (p *progress) ack(through uint64) (took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	began := p.inFlight.Swap(0)
	p.acked.Store(began)
	p.ended = p.begun
	p.committed.Store(through)
	p.stalled.Store(false)
	closeOnce(p.turn.Load().flying)
	p.acksLocked()
	return time.Since(p.epoch) - time.Duration(began)
}

// stall ends the waits for an append, if it is still in flight: it and what comes behind it is not
// waited for. It reports whether it is.
func (p *progress) stall(number uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended >= number || p.over.Load() != nil {
		return false
	}
	p.stalled.Store(true)
	p.freshLocked(p.turn.Load().sealed)
	return true
}

// end tells every waiter, now and later, that nothing more is acknowledged. The first reason
// counts.
func (p *progress) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over.CompareAndSwap(nil, &err) {
		return
	}
	p.inFlight.Store(0)
	p.freshLocked(p.turn.Load().sealed)
	if errors.Is(err, ErrLost) {
		close(p.failed)
	}
}

// wait returns nil when lsn is committed, ErrStalled, or why it never will be. want has the filling
// batch sent.
func (p *progress) wait(lsn uint64, want func()) error {
	for p.committed.Load() < lsn {
		t := p.turn.Load() // before over and stalled, see the type
		if over := p.over.Load(); over != nil {
			if p.committed.Load() >= lsn { // stored before over
				return nil
			}
			return *over
		}
		if p.stalled.Load() {
			return ErrStalled
		}
		if lsn <= t.sealed {
			<-t.flying
			continue
		}
		want()
		<-t.filling
	}
	return nil
}

// nextAppend is the number of the next append to begin.
func (p *progress) nextAppend() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun + 1
}

// waitAppend returns nil when the append with this number, or a later one, was acknowledged;
// otherwise as wait.
func (p *progress) waitAppend(number uint64) error {
	for {
		p.mu.Lock()
		if p.ended >= number {
			p.mu.Unlock()
			return nil
		}
		over, stalled := p.over.Load(), p.stalled.Load()
		if p.acks == nil {
			p.acks = make(chan struct{})
		}
		acks := p.acks
		p.mu.Unlock()
		if over != nil {
			return *over
		}
		if stalled {
			return ErrStalled
		}
		<-acks
	}
}

// lasts is how long the append in flight has lasted; 0: none is.
func (p *progress) lasts() time.Duration {
	if began := p.inFlight.Load(); began != 0 {
		return time.Since(p.epoch) - time.Duration(began)
	}
	return 0
}

// sinceAck is how long ago the last append began that was acknowledged.
func (p *progress) sinceAck() time.Duration {
	return time.Since(p.epoch) - time.Duration(p.acked.Load())
}

// failure is why the log has failed; nil: it has not, or it was closed.
func (p *progress) failure() error {
	if over := p.over.Load(); over != nil && errors.Is(*over, ErrLost) {
		return *over
	}
	return nil
}

// closeOnce closes a channel that only holders of progress.mu close.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
