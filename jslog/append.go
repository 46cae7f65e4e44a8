package jslog

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// stallAfter is how long an append may be in flight before it is not waited for any more.
const stallAfter = 2 * time.Second

// appender sends what was appended, message by message. No timer ends a batch, the append before it
// does. It is the only user of the fence.
type appender struct {
	log *Log
	// Set before run, then immutable.
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration)

	// wanted says that a turn is to be taken. Who sets it leaves a token; the loop takes it back
	// before it looks what there is, so that this turn or an earlier one has what each wanted.
	wanted atomic.Bool
	wake   chan struct{} // one token
	done   chan struct{} // closed when the loop is gone

	mu       sync.Mutex
	parcels  []*parcel // guarded by mu: of a checkpoint, to be sent; one at a time
	vouching bool      // guarded by mu: an append is to begin, if only a no-op

	scratch []byte // the loop's; of no-ops
	last    int    // the loop's; records of the last batch

	// The loop's: how long the append of the last batch took, and one takes that waits for nothing.
	took, best time.Duration
}

// parcel is a part of a checkpoint on its way.
type parcel struct {
	kind    kind
	count   uint32
	message []byte      // with room for the header
	sent    chan uint64 // gets the sequence
}

// want has the loop take a turn. It never blocks. Any goroutine.
func (a *appender) want() {
	if !a.wanted.Load() && !a.wanted.Swap(true) {
		select {
		case a.wake <- struct{}{}:
		default: // there is a token already
		}
	}
}

// vouch has an append begin after the call. Any goroutine.
func (a *appender) vouch() {
	a.mu.Lock()
	a.vouching = true
	a.mu.Unlock()
	a.want()
}

// send appends a parcel and returns its sequence, or the log's end. Any goroutine.
func (a *appender) send(p *parcel) (seq uint64, err error) {
	p.sent = make(chan uint64, 1)
	a.mu.Lock()
	a.parcels = append(a.parcels, p)
	a.mu.Unlock()
	a.want()
	select {
	case seq = <-p.sent:
		return seq, nil
	case <-a.done:
	}
	select {
	case seq = <-p.sent:
		return seq, nil
	default:
		return 0, *a.log.progress.over.Load()
	}
}

// run is the append loop. It ends with the log's failure, or when Close was called.
func (a *appender) run() {
	defer close(a.done)
	l := a.log
	for {
		select {
		case <-l.ctx.Done():
			l.end(ErrClosed)
			return
		case <-a.wake:
		}
		if !a.pause() {
			l.end(ErrClosed)
			return
		}
		a.wanted.Store(false)
		a.gather()
		err := a.turn()
		switch {
		case err == nil:
		case l.ctx.Err() != nil:
			l.end(ErrClosed)
			return
		default:
			l.o.Logger.Warn("a partition's log is lost to this node until it is claimed again",
				"error", err)
			l.end(err)
			return
		}
	}
}

// turn appends one batch, and then one part of a checkpoint, or a no-op when there is neither and
// one is asked for. A part goes behind the records that were appended before it was sent, which it
// may tell of: so the stream never knows of a change only by a checkpoint.
func (a *appender) turn() error {
	l := a.log
	a.mu.Lock()
	var p *parcel
	if len(a.parcels) > 0 {
		p, a.parcels = a.parcels[0], a.parcels[1:]
	}
	if len(a.parcels) > 0 {
		defer a.want()
	}
	vouching := a.vouching
	a.vouching = false
	a.mu.Unlock()

	b := l.intake.seal(l.progress.seal)
	if b.records > 0 {
		if err := a.appendBatch(&b); err != nil {
			return err
		}
	}
	if p != nil {
		h := header{kind: p.kind, epoch: l.epoch, first: b.last + 1, count: p.count}
		seq, _, err := a.append(h, p.message, b.last)
		if err != nil {
			return err
		}
		p.sent <- seq
		a.observe(0, 0)
	} else if b.records == 0 && vouching {
		a.scratch = append(a.scratch[:0], make([]byte, headerBytes)...)
		h := header{kind: kindNoop, epoch: l.epoch, first: b.last + 1}
		_, took, err := a.append(h, a.scratch, b.last)
		if err != nil {
			return err
		}
		a.observe(0, took)
	}
	return nil
}

// appendBatch appends a batch and tells the owner of it.
func (a *appender) appendBatch(b *batch) error {
	l := a.log
	h := header{kind: kindBatch, epoch: l.epoch, first: b.first, count: b.records}
	_, took, err := a.append(h, b.message, b.last)
	if err != nil {
		return err
	}
	a.last = int(b.records)
	a.noteTook(took)
	a.observe(int(b.records), took)
	if a.committed != nil {
		a.committed(b.first, b.last, b.all(), b.stamp, took)
	}
	l.intake.reuse(b.message)
	return nil
}

func (a *appender) observe(records int, took time.Duration) {
	if observe := a.log.o.ObserveAppend; observe != nil {
		observe(records, took)
	}
}

// append appends a message and moves the committed LSN to through (C2).
func (a *appender) append(
	h header, message []byte, through uint64,
) (seq uint64, took time.Duration, err error) {
	l := a.log
	h.seal(message)
	ctx, cancel := context.WithTimeout(l.ctx, l.o.AckTimeout)
	defer cancel()
	number := l.progress.beginAppend()
	watch := time.AfterFunc(stallAfter, func() {
		if l.progress.stall(number) {
			l.intake.wake() // reservers, to be refused
		}
	})
	seq, err = l.fence.append(ctx, message)
	if err != nil {
		watch.Stop()
		return 0, 0, err
	}
	took = l.progress.ack(through)
	if !watch.Stop() {
		l.intake.wake()
	}
	l.marks.add(seq, h.first, len(message))
	return seq, took, nil
}

// Bounds of a pause: of one where appends wait for nothing, and of any.
const maxShortPause, maxPause = 2 * time.Millisecond, 10 * time.Millisecond

// pause lets a batch grow where several senders wait for one: for half as long as the last append
// took. Those that it has answered send again meanwhile, so that half as many appends carry the
// same records: each costs a processor, on all replicas together, more than half a millisecond,
// whatever is in it. A sender alone has nothing to wait for. False: the log was closed.
func (a *appender) pause() bool {
	if a.last <= 1 {
		return true
	}
	timer := time.NewTimer(a.rest())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.log.ctx.Done():
		return false
	}
}

// maxCrowd is the number of records of a batch beyond which a pause does not grow any more.
const maxCrowd = 16

// rest is how long a pause is. Appends that take longer than one that waits for nothing wait for a
// processor or a disk: the fewer there are, the sooner each is through. So behind a crowd the pause
// grows with what they wait: three nodes on two processors take half again as many heartbeats of
// a thousand senders then, and these wait less.
func (a *appender) rest() time.Duration {
	crowd := time.Duration(min(a.last, maxCrowd))
	return min(min(a.took/2, maxShortPause)+crowd*(a.took-a.best)/4, maxPause)
}

// noteTook notes how long an append took. The best of them is forgotten slowly: a thousand appends
// later, one that takes three times as long may be the best.
func (a *appender) noteTook(took time.Duration) {
	a.took = took
	if a.best += a.best / 1024; took < a.best || a.best == 0 {
		a.best = took
	}
}

// maxYields bounds how often the loop lets others append before it seals; after quietYields without
// an append it stops, and also after maxYielding or when the batch has enoughBytes.
const (
	maxYields, quietYields = 16, 4
	maxYielding            = 100 * time.Microsecond
	enoughBytes            = 16 << 10
)

// gather makes the batch larger before the loop takes its turn: goroutines that are ready to run
// append first, as long as that makes it grow. Woken by the batch before, they would wait for the
// next one. On an idle machine the yields take a microsecond.
func (a *appender) gather() {
	quiet, began := 0, time.Now()
	for i := 0; i < maxYields && quiet < quietYields && time.Since(began) < maxYielding; i++ {
		before := a.log.intake.filled()
		if before >= enoughBytes {
			return
		}
		runtime.Gosched()
		if a.log.intake.filled() == before {
			quiet++
		}
	}
}
