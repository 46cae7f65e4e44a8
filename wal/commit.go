package wal

import (
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// committer commits in turns: group commit (DeWitt et al. 1984,
// https://doi.org/10.1145/602259.602261). Each turn takes what was appended during the last one, as
// one batch: no timer ends a batch, the write and sync before it do. Only a turn writes the log.
//
// A turn is taken by the commit loop, for those that wait for it, or by a goroutine in Commit, for
// which no other has to be woken then. They lead in the order in which they come; one that finds on
// its turn that another has committed what it came for follows, and is done. The commit loop takes
// one turn for each time that it is asked: what is appended and not asked for is left to the
// Commit, or the question, that comes, so that the loop does not race with those that commit by
// themselves.
//
//	in Commit                            commit loop                 in Wait
//	appends 7                            parked                      appends 8
//	turnMu: seals 7                                                  wanted: true, a token
//	writes, syncs                        wanted: false, waits
//	committed: 7                         turnMu: seals 8, ...        waits for its channel
type committer struct {
	mode     SyncMode
	buffers  *buffers
	credits  *credits
	progress *progress
	writer   writer // guarded by turnMu
	readers  *readers
	stats    *counters
	stall    *stall
	dir      *directory

	// Set before the loop runs, then immutable.
	observe   func(records uint64, took time.Duration)
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration)

	// turnMu is held by the goroutine that takes a turn, for as long as write and sync last.
	turnMu sync.Mutex

	_ [64]byte // keeps the word that every waiter reads off the lines before
	// wanted says that the loop is to take a turn. Who wants one has appended before; the loop
	// takes it back before the turn seals: so that turn, or an earlier one, has what was appended.
	wanted atomic.Bool
	_      [63]byte // and off those behind

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
		if c.lead(true, c.turn) != nil {
			return
		}
	}
	_ = c.lead(false, func() error {
		if err := c.finish(); err != nil {
			return err
		}
		c.end(ErrClosed)
		return nil
	})
}

// commit takes turns until lsn is committed, and returns nil, or why it never will be.
func (c *committer) commit(lsn uint64) error {
	p := c.progress
	for p.committed.Load() < lsn {
		err := c.lead(false, func() error {
			if p.committed.Load() >= lsn {
				return nil
			}
			return c.turn()
		})
		if err != nil && p.committed.Load() < lsn {
			return err
		}
	}
	return nil
}

// lead calls turn with turnMu held, unless the log has ended. Its error is the log's end: a turn
// that fails is one. gathers: others may append before it.
func (c *committer) lead(gathers bool, turn func() error) error {
	if gathers {
		c.gather()
	}
	c.turnMu.Lock()
	defer c.turnMu.Unlock()
	if end := c.progress.end.Load(); end != nil {
		return end.err
	}
	if err := turn(); err != nil {
		c.fail(err)
		return c.progress.end.Load().err
	}
	return nil
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

// want has the loop take a turn for what was appended. It never blocks. Any goroutine.
func (c *committer) want() {
	if !c.wanted.Load() && !c.wanted.Swap(true) {
		c.wakeUp()
	}
}

// wakeUp leaves a token for the loop, which looks whether there is something to do. It never
// blocks. Any goroutine.
func (c *committer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // there is a token already
	}
}

// awaitWork parks until there is something to do; false: closed, and all is done.
func (c *committer) awaitWork() bool {
	for {
		if c.wanted.Swap(false) || c.syncDue() || c.dir.guard.failure() != nil ||
			c.progress.end.Load() != nil {
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
			if c.buffers.filling() != 0 {
				return true
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
	if c.mode == SyncAlways {
		return false
	}
	if c.syncs.any() {
		return true
	}
	c.turnMu.Lock()
	defer c.turnMu.Unlock()
	return c.writer.due()
}

// turn commits one batch, if there is one, and syncs when it is time. With turnMu held.
func (c *committer) turn() error {
	if err := c.dir.guard.failure(); err != nil {
		return err
	}
	var syncs []chan error
	if c.mode != SyncAlways {
		// Before sealing: what they appended before they asked is in this batch or an earlier one.
		syncs = c.syncs.take()
	}
	began := c.beginTurn()
	defer c.endTurn()
	b := c.seal()
	if b != nil {
		if err := c.writer.write(b); err != nil {
			return err
		}
	}
	if c.mode == SyncAlways || len(syncs) > 0 || c.writer.due() {
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

// gather makes the commit loop's batch larger before it is sealed. It lets goroutines that are
// ready to run append first, as long as that makes the batch grow. A batch costs a write, perhaps a
// sync, and a wake-up however many records it has, and on few processors the ready goroutines are
// its own late members: woken by the batch before, they would wait for the next one. On an idle
// machine the yields take a microsecond.
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

// seal ends the filling batch and returns it with all copies finished; nil when it is empty. With
// turnMu held.
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
	c.wakeUp() // the loop ends
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
