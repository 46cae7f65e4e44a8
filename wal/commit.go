package wal

import (
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// committer commits what was appended, turn by turn: group commit (DeWitt et al. 1984,
// https://doi.org/10.1145/602259.602261). Each turn takes what was appended during the last one, as
// one batch: no timer ends a batch, the write and sync before it do. Nothing else writes the log.
//
// A turn runs on the goroutine that holds the turn lock: the commit loop's, or that of a caller of
// Commit. The first caller leads and commits for all; those that come meanwhile follow (leader and
// followers, as the group commit of MySQL's binary log and the writers of LevelDB).
//
// The loop takes one turn each time that it is asked. What was appended and not asked for is left
// to the Commit that comes: the loop does not race with goroutines that commit by themselves.
//
//	in Commit                            loop                        in Wait
//	appends 7                            parked                      appends 8
//	leads: seals 7                                                   wanted: true, a token
//	writes, syncs                        wanted: false, waits
//	committed: 7                         leads: seals 8, ...         waits for its channel
type committer struct {
	mode     SyncMode
	buffers  *buffers
	credits  *credits
	progress *progress
	writer   writer // guarded by turns
	readers  *readers
	stats    *counters
	stall    *stall
	dir      *directory

	// Set before the loop runs, then immutable. A turn calls them.
	observe   func(records uint64, took time.Duration)
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration)

	turns turnLock
	open  bool // guarded by turns: Start is through, a turn may run

	_ [64]byte // keeps the word that every waiter reads off the lines before
	// wanted says that the loop is to take a turn. The first goroutine that wants one sets it and
	// wakes the loop; the others find it set. The loop takes it back before it takes the turn. So
	// that turn, or an earlier one, has what each of them appended:
	//
	//	in Wait                              loop
	//	appends
	//	                                     wanted: true ► false
	//	loads wanted: false, sets it         seals, with the record
	//	                                     one more turn, perhaps of nothing
	//
	//	appends
	//	loads wanted: true                   wanted: true ► false
	//	                                     seals, with the record
	wanted atomic.Bool
	_      [63]byte // and off those behind

	wake    chan struct{}   // one token: there is something to do
	closing <-chan struct{} // closed by Close
	done    chan struct{}   // closed when the loop is gone
	syncs   syncRequests

	epoch    time.Time    // the zero of inFlight; immutable
	inFlight atomic.Int64 // nanoseconds since epoch when the turn in progress began, odd; 0: none
	// The holder of turns stores inFlight, the watcher of stalls and any other goroutine load it.
}

// turnLock is held by the goroutine that runs a turn of the log: who has sent into it holds it. It
// is a channel and no mutex, so that a follower can stop waiting for it when its record is
// committed, or when the log stalls. Waiting goroutines get it in the order in which they came.
type turnLock chan struct{}

func (t turnLock) lock()   { t <- struct{}{} }
func (t turnLock) unlock() { <-t }

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
// first failure (W5), its own or that of a caller of Commit.
func (c *committer) run() {
	defer close(c.done)
	for c.awaitWork() {
		c.gather()
		c.turns.lock()
		_ = c.turnLocked() // end has it
		c.turns.unlock()
	}
	c.turns.lock()
	defer c.turns.unlock()
	if c.progress.end.Load() != nil {
		return
	}
	if err := c.finish(); err != nil {
		c.fail(err)
		return
	}
	c.end(ErrClosed)
}

// commit returns when lsn is committed, and runs a turn for it when no other goroutine does. The
// record with this LSN is appended, so the first turn that begins from now on covers it.
func (c *committer) commit(lsn uint64) error {
	p := c.progress
	for p.committed.Load() < lsn {
		w := p.waiting.Load() // before end and stalled, as progress.wait
		if p.end.Load() != nil {
			break
		}
		if p.stalled.Load() {
			return ErrStalled
		}
		select {
		case c.turns <- struct{}{}:
			return c.lead(lsn)
		default:
		}
		select { // a follower: until the leader has committed the record or has left the lead
		case c.turns <- struct{}{}:
			return c.lead(lsn)
		case <-w.channel(lsn):
		}
	}
	return p.wait(lsn)
}

// lead runs a turn for lsn unless there is nothing left to do for it, and gives turns back.
func (c *committer) lead(lsn uint64) error {
	if c.open && c.progress.committed.Load() < lsn {
		_ = c.turnLocked() // end has it
	}
	c.turns.unlock()
	if c.credits.closed() {
		c.wakeUp() // Close may be waiting for the credit that the turn gave back
	}
	return c.progress.wait(lsn) // at once, but before Start
}

// finish is the last turn: it commits nothing, but it may hang as any other. With turns held.
func (c *committer) finish() error {
	c.beginTurn()
	defer c.endTurn()
	if err := c.dir.guard.check(); err != nil {
		return err
	}
	return c.writer.finish()
}

// wakeUp leaves a token for the loop, which looks whether there is something to do. It never
// blocks. Any goroutine.
func (c *committer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // there is a token already
	}
}

// want has the loop take a turn for what was appended, unless a turn has taken that. It never
// blocks, and is a load or two unless the loop has to be woken. Any goroutine.
func (c *committer) want() {
	if !c.wanted.Load() && c.buffers.filling() != 0 && !c.wanted.Swap(true) {
		c.wakeUp()
	}
}

// awaitWork parks until there is something to do; false: closed, and all is done, or failed.
func (c *committer) awaitWork() bool {
	for {
		switch {
		case c.progress.end.Load() != nil:
			return false
		case c.wanted.Swap(false) || c.syncWanted() || c.dir.guard.failure() != nil:
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
			if c.buffers.filling() != 0 { // no goroutine need ask for it
				return true
			}
			// The last credits wake the loop: Append, Release and lead see the bias.
			closing = nil
		default:
		}
		select {
		case <-c.wake:
		case <-c.writer.timer.C:
			return true
		case <-closing:
		}
	}
}

// syncWanted reports whether a goroutine asked for a sync. In SyncInterval the timer says that the
// interval is over.
func (c *committer) syncWanted() bool { return c.mode != SyncAlways && c.syncs.any() }

// turnLocked runs a turn, and makes the log fail when it fails. With turns held; so the log fails
// once.
func (c *committer) turnLocked() error {
	if end := c.progress.end.Load(); end != nil {
		return end.err
	}
	err := c.turn()
	if err != nil {
		c.fail(err)
	}
	return err
}

// turn commits one batch, if there is one, and syncs when it is time. With turns held.
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

// gather makes the batch larger before the loop takes its turn. It lets goroutines that are ready
// to run append first, as long as that makes the batch grow. A batch costs a write, perhaps a sync,
// and a wake-up however many records it has, and on few processors the ready goroutines are its own
// late members: woken by the batch before, they would wait for the next one. On an idle machine the
// yields take a microsecond. A caller of Commit does without: it has gathered a batch of its own.
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
// turns held.
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
// failed. With turns held, once.
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
	c.wakeUp() // the loop ends
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
