package wal

import (
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// committer runs the commit loop: group commit (DeWitt et al. 1984,
// https://doi.org/10.1145/602259.602261). Each turn takes what was appended during the last one, as
// one batch: no timer ends a batch, the write and sync before it do. It is the only goroutine that
// writes the log.
type committer struct {
	mode     SyncMode
	buffers  *buffers
	credits  *credits
	progress *progress
	writer   writer // single owner: the loop
	readers  *readers
	stats    *counters
	stall    *stall
	dir      *directory

	// Set before the loop runs, then immutable.
	observe   func(records uint64, took time.Duration)
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration)

	wake    chan struct{}   // one token: there is something to do
	closing <-chan struct{} // closed by Close
	done    chan struct{}   // closed when the loop is gone
	syncs   syncRequests

	epoch    time.Time    // the zero of inFlight; immutable
	inFlight atomic.Int64 // nanoseconds since epoch when the turn in progress began, odd; 0: none
}

// syncRequests are the goroutines that asked for a sync and wait for it.
type syncRequests struct {
	mu       sync.Mutex
	channels []chan error // guarded by mu
}

func (r *syncRequests) add() <-chan error {
	done := make(chan error, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.channels = append(r.channels, done)
	return done
}

func (r *syncRequests) take() []chan error {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.channels
	r.channels = nil
	return taken
}

func (r *syncRequests) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.channels) > 0
}

// run is the commit loop. It ends when Close was called and every credit has come home, or at the
// first failure (W5).
func (c *committer) run() {
	defer close(c.done)
	for c.awaitWork() {
		if err := c.turn(); err != nil {
			c.fail(err)
			return
		}
	}
	if err := c.finish(); err != nil {
		c.fail(err)
		return
	}
	c.end(ErrClosed)
}

// finish is the last turn: it commits nothing, but it may hang as any other.
func (c *committer) finish() error {
	c.beginTurn()
	defer c.endTurn()
	if err := c.dir.guard.check(); err != nil {
		return err
	}
	return c.writer.finish()
}

// wakeUp leaves a token for the loop. It never blocks. Any goroutine.
func (c *committer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // there is a token already
	}
}

// awaitWork parks until there is something to do; false: closed, and all is done.
func (c *committer) awaitWork() bool {
	for {
		if c.buffers.filling() != 0 || c.syncDue() || c.dir.guard.failure() != nil {
			return true
		}
		closing := c.closing
		select {
		case <-closing:
			// The bias is in: no new credit. With all of it home nothing is appended and no
			// goroutine can append (W2).
			if c.credits.allHome() {
				return false
			}
			closing = nil
		default:
		}
		select {
		case <-c.wake:
		case <-c.writer.timer.C:
		case <-closing:
		}
	}
}

// syncDue reports whether a goroutine asked for a sync or, in SyncInterval, the interval is over.
func (c *committer) syncDue() bool {
	return c.mode != SyncAlways && (c.writer.due() || c.syncs.any())
}

// turn commits one batch, if there is one, and syncs when it is time.
func (c *committer) turn() error {
	if err := c.dir.guard.failure(); err != nil {
		return err
	}
	var syncs []chan error
	if c.mode != SyncAlways {
		// Before sealing: what they appended before they asked is in this batch or an earlier one.
		syncs = c.syncs.take()
	}
	c.gather()
	began := c.beginTurn()
	defer c.endTurn()
	b := c.seal()
	if b != nil {
		if err := c.writer.write(b); err != nil {
			return err
		}
	}
	if c.mode == SyncAlways || len(syncs) > 0 || c.syncDue() {
		if err := c.writer.sync(); err != nil {
			return err
		}
	}
	if b != nil {
		c.publish(b, time.Since(began))
	}
	for _, done := range syncs {
		done <- nil
	}
	return nil
}

// maxYields bounds how often a turn lets others append before it seals; after quietYields without
// an append it stops. It also stops after maxYielding, since a goroutine that is ready may have
// more to do than to append, and when the batch has enoughBytes, whose write and sync take no
// longer than those of a few.
const (
	maxYields, quietYields = 16, 4
	maxYielding            = 100 * time.Microsecond
	enoughBytes            = 16 << 10
)

// gather makes the batch larger before it is sealed. It lets goroutines that are ready to run
// append first, as long as that makes the batch grow. A batch costs a write, perhaps a sync, and a
// wake-up however many records it has, and on few processors the ready goroutines are its own
// late members: woken by the batch before, they would wait for the next one. On an idle machine the
// yields take a microsecond.
func (c *committer) gather() {
	quiet, began := 0, time.Now()
	for i := 0; i < maxYields && quiet < quietYields && time.Since(began) < maxYielding; i++ {
		before := c.buffers.state.Load()
		if before&bytesMask >= enoughBytes {
			return
		}
		runtime.Gosched()
		if c.buffers.state.Load() == before {
			quiet++
		}
	}
}

// seal ends the filling batch and returns it with all copies finished; nil when it is empty.
func (c *committer) seal() *batch {
	b := c.buffers.seal()
	if b == nil {
		return nil
	}
	c.progress.seal(c.buffers.sealed)
	c.credits.give(b.bytes)
	b.awaitCopies()
	return b
}

// publish counts the batch, moves the committed LSN, wakes the batch's waiters at once and tells
// the owner. It counts first: a caller that is answered finds its record in the figures.
func (c *committer) publish(b *batch, took time.Duration) {
	last := b.last()
	c.stats.addBatch(b.records, b.bytes)
	if c.observe != nil {
		c.observe(b.records, took)
	}
	c.progress.commit(last)
	c.readers.signal()
	if c.committed != nil {
		c.committed(b.first, last, b.all, b.stamp.Load(), took)
	}
}

// fail makes the log fail-stop (W5): nothing after this is acknowledged, and no write is retried,
// because a second sync may report success for pages that the kernel dropped after the first one
// failed.
func (c *committer) fail(err error) {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	c.dir.logger.Error("write-ahead log failed; nothing more is acknowledged",
		"dir", c.dir.path, "durable", c.progress.durable.Load(), "err", err)
	c.credits.refuse(biasFailed)
	c.end(err)
	close(c.progress.failed)
}

// end tells waiters, reservers and readers that nothing more will be committed.
func (c *committer) end(err error) {
	c.progress.endWith(err)
	c.credits.wake()
	c.readers.signal()
}

// beginTurn says that a commit is in flight from now on.
func (c *committer) beginTurn() (began time.Time) {
	began = time.Now()
	c.inFlight.Store(int64(began.Sub(c.epoch)) | 1)
	return began
}

// endTurn says that no commit is in flight, and ends the stall if it was one.
func (c *committer) endTurn() {
	c.inFlight.Store(0)
	c.stall.end()
}

// lasts returns how long the turn in progress has lasted; 0: none is. Any goroutine.
func (c *committer) lasts() time.Duration {
	if began := c.inFlight.Load(); began != 0 {
		return time.Since(c.epoch) - time.Duration(began)
	}
	return 0
}
