package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/engine/table"
)

// recoverer fills the table from the checkpoint and what the log has beyond it. It runs alone,
// before the loops.
type recoverer struct {
	*devices
	expiry      *expirer
	checkpoints *checkpointer
	store       Store // nil: none
	logger      *slog.Logger
	silence     silence

	progress progress
	over     overBound
	// newest is the highest LSN in the store above the store's own; the log must reach it.
	newest atomic.Uint64
}

func newRecoverer(d *devices, x *expirer, c *checkpointer, o *Options) *recoverer {
	r := &recoverer{
		devices: d, expiry: x, checkpoints: c, store: o.Store, logger: o.Logger,
		silence: newSilence(o), progress: progress{every: time.Second},
	}
	return r
}

// ErrLogShort says that the log ends before what the checkpoint has seen of it: the disk lost what
// it had confirmed, or segments were taken away. Nothing can be recovered from the two.
var ErrLogShort = errors.New("the log ends before the checkpoint does")

// recover reads checkpoint and log; now is the instant from which silence counts again.
func (r *recoverer) recover(now Instant) error {
	r.expiry.postponeExpiry(now.Nanos)
	through := uint64(0)
	if r.store != nil {
		through = r.store.LSN()
		if err := r.checkpoints.loadHistory(); err != nil {
			return err
		}
		if err := r.loadCheckpoint(now); err != nil {
			return fmt.Errorf("engine: recovery from the checkpoint: %w", err)
		}
	}
	r.progress.step.Store(stepLog)
	replay := newReplayer(r, now)
	err := r.log.Replay(through, replay.add)
	if err = errors.Join(err, replay.close()); err != nil {
		return fmt.Errorf("engine: recovery: %w", err)
	}
	if next, _, _ := r.log.Replayed(); next <= r.newest.Load() {
		return fmt.Errorf("engine: %w: its last record is %d, but the checkpoint has seen %d",
			ErrLogShort, next-1, r.newest.Load())
	}
	if r.store != nil {
		if err := r.checkpoints.trust(now); err != nil {
			return err
		}
	}
	r.progress.step.Store(stepDisk)
	return nil
}

// loadCheckpoint reads the store's ranges, as many at a time as there are processors: they lie in
// different shards.
func (r *recoverer) loadCheckpoint(now Instant) error {
	ranges := min(maxRanges, r.table.Shards())
	r.progress.ranges.Store(int64(ranges))
	var next atomic.Int64
	var loaders sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		loaders.Go(func() {
			a := newApplier(r, now)
			for n := int(next.Add(1)) - 1; n < ranges && errs[i] == nil; n = int(next.Add(1)) - 1 {
				errs[i] = r.loadRange(a, n, ranges)
			}
			a.close()
		})
	}
	loaders.Wait()
	return errors.Join(errs...)
}

// loadRange takes up the n-th of so many ranges.
func (r *recoverer) loadRange(a *applier, n, ranges int) error {
	lo, hi := rangeBounds(n, ranges)
	stored := int64(0)
	err := r.store.Load(lo, hi, func(_, value []byte) error {
		stored++
		return r.load(a, value)
	})
	r.progress.stored.Add(stored)
	r.progress.parts.Add(1)
	r.over.note(r)
	return err
}

// load takes up one value of the store. What is newer than the store's LSN is left to the log,
// which has it and everything between: so the table holds, at each moment of a recovery, no more
// devices than it held at some moment before. But what it says of its user's last turn is taken,
// since the log may not have that.
func (r *recoverer) load(a *applier, value []byte) error {
	lsn, rec, turn, err := cutValue(value)
	if err != nil {
		return err
	}
	if lsn > r.store.LSN() {
		r.noteNewest(max(lsn, turn.lsn))
		a.turned(rec.User(), turn)
		return nil
	}
	if turn.lsn > r.store.LSN() {
		r.noteNewest(turn.lsn)
	}
	return a.apply(lsn, rec, 0, nil, &turn)
}

// noteNewest notes an LSN above the store's that the store has seen.
func (r *recoverer) noteNewest(lsn uint64) {
	for old := r.newest.Load(); old < lsn; old = r.newest.Load() {
		if r.newest.CompareAndSwap(old, lsn) {
			return
		}
	}
}

// silence counts for how long devices said nothing before a restart.
type silence struct {
	maxTTLMS  uint64 // Options.MaxTTL
	maxSkewMS uint64 // Options.MaxSkew
}

func newSilence(o *Options) silence {
	s := silence{maxTTLMS: table.MaxInteger, maxSkewMS: uint64(o.MaxSkew.Milliseconds())}
	if o.MaxTTL > 0 {
		s.maxTTLMS = uint64(o.MaxTTL.Milliseconds())
	}
	return s
}

// deadline counts the silence before now, less what the clock of the receipt may have been behind,
// and a TTL of at most maxTTLMS; the grace comes on top of it in dueAt. A wall clock that went
// backwards counts as no silence.
func (s silence) deadline(state *table.State, now Instant) int64 {
	ttl, silent := min(state.TTLMS, s.maxTTLMS), uint64(0)
	if heard := state.UpdatedAtMS + s.maxSkewMS; now.WallMS > heard {
		silent = min(now.WallMS-heard, ttl)
	}
	return after(now.Nanos, ttl-silent)
}
