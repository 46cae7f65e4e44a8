package engine

import (
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/record"
)

// A checkpoint is the table as of an LSN, so that the log before it can go. It is fuzzy, as those
// of ARIES are (Mohan et al. 1992, https://dl.acm.org/doi/10.1145/128765.128770): heartbeats go on
// while it is taken, and what it holds may be newer than its LSN S, never older.
//
//	S = the last LSN given out
//	each range of the table: copy, write it beside the store
//	sync the log past what was copied, put the ranges in their place
//	commit S, truncate the log
//
// Why recovery from it is right: a change at or below S was appended, and so applied, before the
// walk began, or its claim was still held then and the walk waited for it; so the store has it or
// something newer. A change above S is in the log, which is synced past everything that the store
// holds (nothing in the store can be lost with the log's tail), and replay goes by LSN, so that an
// older record never takes the place of a newer state.
//
// A value also says when the last turn of its user was, read behind the entry: what is in the store
// of a user knows of all turns up to S, and the log is synced past those that came later.
//
// Keys are 16 bits of the user's hash, user, device: a shard of the table is a range of keys. The
// hash's key is kept with the store, so that devices come back to their shards.

// checkpointer takes checkpoints, and forgets devices as part of them. Any goroutine may call
// noteLogged and read the counts; everything else is the checkpoint loop's, and Start's before it
// runs.
type checkpointer struct {
	*devices
	store       Store // nil: no checkpoints
	limit       int64 // Options.CheckpointBytes
	every       time.Duration
	forgetAfter time.Duration
	maxWait     time.Duration
	logger      *slog.Logger

	logged atomic.Int64 // bytes of records since the last checkpoint

	trusted trustedClock // of forgetting
	early   bool         // one is due as soon as the server serves

	// overdue is set while a checkpoint is due as soon as anything is appended. The loop stores it
	// and then looks at the log; noteLogged loads it after something was appended: one of the two
	// sees the other.
	overdue atomic.Bool
	wake    chan struct{}

	// rangeDevices is what a range should hold at least: each costs some milliseconds however small
	// it is.
	rangeDevices int
	// besideBytes is how much may be written beside the store before it is put in its place.
	besideBytes int
	// forgot is the LSN of the last device forgotten in each of the finest ranges: the table does
	// not show that the range changed.
	forgot [maxRanges]uint64
	// kept is what history.Changes was when the store got what was forgotten; see noKept.
	kept uint64

	failures  atomic.Uint64
	forgotten atomic.Uint64
	doneAt    atomic.Int64 // unix nanoseconds of the last checkpoint, of New before the first
	took      atomic.Int64 // nanoseconds
}

func newCheckpointer(d *devices, o *Options) *checkpointer {
	c := &checkpointer{
		devices:      d,
		store:        o.Store,
		limit:        o.CheckpointBytes,
		every:        o.CheckpointEvery,
		forgetAfter:  o.ForgetAfter,
		maxWait:      o.MaxWait,
		logger:       o.Logger,
		wake:         make(chan struct{}, 1),
		rangeDevices: 16384,
		besideBytes:  256 << 20,
		kept:         noKept,
	}
	c.doneAt.Store(time.Now().UnixNano())
	return c
}

// noteLogged counts bytes that the log has grown by, and wakes the loop when a checkpoint is due.
func (c *checkpointer) noteLogged(bytes int64) {
	if c.logged.Add(bytes) < c.limit && !c.overdue.Load() {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// maxShortLives is how many segments may pile up, one for each start, before a start that finds
// little in them takes a checkpoint before it serves.
const maxShortLives = 6

// begin bounds the log of a server that is killed again and again, before the time or the bytes for
// a checkpoint are reached: each start begins another segment. One that finds more than one segment
// from before takes a checkpoint as soon as it serves; with many nearly empty ones it does not even
// serve before, since that might be all that it lives for. Recovery has read the log, and the log
// is started.
func (c *checkpointer) begin(stop <-chan struct{}) {
	segments, bytes := c.log.Size()
	if segments > maxShortLives && c.logged.Load() < bytes/4 {
		c.attempt(stop)
		return
	}
	c.early = segments > 2
}

// run is the checkpoint loop: it takes a checkpoint when the log has grown by limit, or after
// every. It ends when stop is closed.
func (c *checkpointer) run(stop <-chan struct{}) {
	last := time.Now()
	timer := time.NewTimer(c.every)
	defer timer.Stop()
	for {
		if c.due(last) {
			if last = c.attempt(stop); last.IsZero() {
				return
			}
			timer.Reset(time.Until(last.Add(c.every)))
		}
		select {
		case <-stop:
			return
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// due reports whether a checkpoint is due, when the last one was taken at this instant.
func (c *checkpointer) due(last time.Time) bool {
	if c.early || c.logged.Load() >= c.limit {
		c.early = false
		return true
	}
	c.overdue.Store(time.Since(last) >= c.every)
	return c.overdue.Load() && c.log.Appended() > c.store.LSN()
}

// attempt takes a checkpoint and returns the instant from which the time to the next one counts;
// zero: it was stopped.
func (c *checkpointer) attempt(stop <-chan struct{}) time.Time {
	began := time.Now()
	written, err := c.checkpoint(stop)
	now := time.Now()
	switch {
	case errors.Is(err, errStopped):
		return time.Time{}
	case err != nil:
		c.failures.Add(1)
		c.logger.Error("no checkpoint: the log keeps growing until one succeeds; it is tried again",
			"error", err, "log_bytes", c.logged.Load())
		c.logged.Store(0)
		return now.Add(min(time.Minute, c.every) - c.every)
	}
	c.doneAt.Store(now.UnixNano())
	c.took.Store(int64(now.Sub(began)))
	c.logger.Info("checkpoint", "lsn", c.store.LSN(), "devices_written", written,
		"took", now.Sub(began).Round(time.Millisecond))
	return now
}

// errStopped says that a checkpoint was ended early.
var errStopped = errors.New("engine: the checkpoint was stopped")

// checkpoint writes what changed since the last one, forgets devices that were offline for too long
// and shortens the log. A closed stop ends it early, between two ranges, as if it had not begun,
// with errStopped. It returns how many devices were written.
func (c *checkpointer) checkpoint(stop <-chan struct{}) (written int, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.store.Discard())
		}
	}()
	c.history.Compact() // here, where no claim is held
	before := c.logged.Load()
	forgetBefore := uint64(max(0, int64(c.trusted.look(c.clock()))-c.forgetAfter.Milliseconds()))
	through := c.log.Appended()
	since := c.store.LSN()
	if c.store.InLog() {
		since = 0 // the ranges of the checkpoint before go with the log
	}
	ranges := c.ranges()
	buf := rangeBuffer{pace: pace{began: time.Now(), stop: stop}}
	side := beside{newest: through}
	for r := range ranges {
		select {
		case <-stop:
			return written, errStopped
		default:
		}
		n, err := c.writeRange(&buf, &side, r, ranges, since, forgetBefore)
		if err != nil {
			return written, err
		}
		written += n
		buf.pace.step()
	}
	if err := c.room(&side, 0); err != nil {
		return written, err
	}
	if err := c.install(&side); err != nil {
		return written, err
	}
	// The clock first: the next start goes on from the clock of what was committed last.
	if err := c.store.SetClock(c.trusted.ms); err != nil {
		return written, err
	}
	if err := c.keepForgotten(); err != nil {
		return written, err
	}
	if err := c.store.Commit(through); err != nil {
		return written, err
	}
	c.logged.Add(-before)
	return written, c.log.TruncateBefore(through + 1)
}

// beside is what was written beside the store and is not in its place.
type beside struct {
	bytes  int    // of keys and values
	newest uint64 // LSN of all that was written, and what the checkpoint is as of
}

// install puts what was written in its place, behind the log: what the store holds and what it is
// as of must never be ahead of the log after a crash.
func (c *checkpointer) install(side *beside) error {
	if err := c.log.Sync(side.newest); err != nil {
		return err
	}
	side.bytes = 0
	return c.store.Install()
}

// room returns an error when the disk has no room for n bytes more, although what was written is in
// its place and what it replaced is gone.
func (c *checkpointer) room(side *beside, n int64) error {
	err := c.store.Room(n)
	if err == nil || side.bytes == 0 {
		return err
	}
	if err := c.install(side); err != nil {
		return err
	}
	return c.store.Room(n)
}

// writeRange writes what is to take the place of the r-th of so many ranges in the store, unless
// nothing in it changed after since. It forgets devices that went offline before an instant.
func (c *checkpointer) writeRange(
	b *rangeBuffer, side *beside, r, ranges int, since, forgetBefore uint64,
) (int, error) {
	per := c.table.Shards() / ranges
	newest := b.collect(c.devices, r*per, (r+1)*per)
	if err := c.forgetOld(b, forgetBefore); err != nil {
		return 0, err
	}
	fine := maxRanges / ranges
	newest = max(newest, slices.Max(c.forgot[r*fine:(r+1)*fine]))
	if newest <= since {
		return 0, nil
	}
	if err := c.room(side, int64(len(b.items))*deviceBytes); err != nil {
		return 0, err
	}
	b.sortKeys(c.table.Shards())
	lo, hi := rangeBounds(r, ranges)
	if err := c.store.Replace(lo, hi, b.each); err != nil {
		return 0, err
	}
	side.bytes += len(b.bytes)
	side.newest = max(side.newest, newest)
	if side.bytes < c.besideBytes {
		return len(b.items), nil
	}
	return len(b.items), c.install(side)
}

// ranges is in how many parts the next checkpoint is written, a power of two. It may differ from
// one to the next: each covers all keys.
func (c *checkpointer) ranges() int {
	n := 1
	for most := min(maxRanges, c.table.Shards()); n < most && n*c.rangeDevices < c.table.Len(); {
		n *= 2
	}
	return n
}

// forgetOld forgets the devices in b that have been offline since before an instant, and takes them
// out of b.
func (c *checkpointer) forgetOld(b *rangeBuffer, before uint64) error {
	kept := b.items[:0]
	for i, it := range b.items {
		if i%paceItems == 0 {
			b.pace.step()
		}
		at, rec, _, err := cutValue(b.value(it))
		if err != nil {
			panic("bug: " + err.Error())
		}
		if rec.Online() || rec.UpdatedAt() >= before {
			kept = append(kept, it)
			continue
		}
		lsn, err := c.forget(rec, at)
		if err != nil && c.log.Err() != nil {
			return err
		}
		if lsn == 0 {
			// It came back meanwhile, or the log has no room: the checkpoint that makes room must
			// go on.
			kept = append(kept, it)
			continue
		}
	}
	b.items = kept
	c.log.Kick()
	return nil
}

// forget removes a device that still stands at an LSN, as a logged change like any other. It
// returns 0 when the device has moved on. Streams get no event: it was offline, and it stays so.
func (c *checkpointer) forget(r record.View, at uint64) (lsn uint64, err error) {
	user, device := r.User(), r.Device()
	size := record.ForgetBytes(r)
	if err := c.log.Reserve(size, c.maxWait); err != nil {
		return 0, err
	}
	ref, entry := c.table.Find(user, device)
	if entry == nil || !entry.Claim(user, device) {
		c.log.Release(size)
		return 0, nil
	}
	if entry.LSN() != at {
		entry.Unclaim()
		c.log.Release(size)
		return 0, nil
	}
	lsn = c.log.Append(record.AppendForget(nil, r), 0)
	c.noteForgotten(user, lsn) // under the claim: see keepForgotten
	c.remove(ref, entry)
	c.forgotten.Add(1)
	c.counters.loops().devices[Offline].Add(-1)
	return lsn, nil
}

// noteForgotten says that a device of the user was forgotten at an LSN. During recovery each of the
// finest ranges has one goroutine that may call it.
func (c *checkpointer) noteForgotten(user uuid.UUID, lsn uint64) {
	hash := c.table.UserHash(user)
	c.forgot[rangeOf(hash)] = lsn
	c.history.Forget(hash, lsn)
}
