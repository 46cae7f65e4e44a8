package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"rollcall/engine/table"
	"rollcall/record"
)

// recoverLog fills the table from the checkpoint and what the log has beyond it. It runs alone, before the loops.
func (e *Engine) recoverLog(now Instant) error {
	defer e.tellProgress()()
	e.sources.recovering = true
	defer func() { e.sources.recovering = false }()
	e.expiry.resume.Store(now.Nanos)
	through := uint64(0)
	if e.opts.Store != nil {
		through = e.opts.Store.LSN()
		if err := e.loadCheckpoint(now); err != nil {
			return fmt.Errorf("engine: recovery from the checkpoint: %w", err)
		}
	}
	e.recovery.step.Store(stepLog)
	r := newReplayer(e, now)
	err := e.log.Replay(through, func(lsn uint64, rec []byte) error {
		e.logged.Add(int64(len(rec)))
		return r.add(lsn, rec)
	})
	if err = errors.Join(err, r.close()); err != nil {
		return fmt.Errorf("engine: recovery: %w", err)
	}
	if next, _, _ := e.log.Replayed(); next <= e.stored.Load() {
		return fmt.Errorf("engine: the log ends at record %d, but the checkpoint has seen %d: the disk lost what it had confirmed, or "+
			"segments were taken away; restore the data directory from a backup", next-1, e.stored.Load())
	}
	return nil
}

// loadCheckpoint reads the store's ranges, as many at a time as there are processors: they lie in different shards.
func (e *Engine) loadCheckpoint(now Instant) error {
	ranges := min(maxRanges, e.table.Shards())
	e.recovery.ranges.Store(int64(ranges))
	var next atomic.Int64
	var loaders sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		loaders.Go(func() {
			a := &applier{e: e, now: now}
			for r := int(next.Add(1)) - 1; r < ranges && errs[i] == nil; r = int(next.Add(1)) - 1 {
				lo, hi := rangeBounds(r, ranges)
				stored := int64(0)
				errs[i] = e.opts.Store.Load(lo, hi, func(_, value []byte) error {
					stored++
					return e.load(a, value)
				})
				e.recovery.stored.Add(stored)
				e.recovery.parts.Add(1)
			}
			a.forgetSource()
			a.handOver()
		})
	}
	loaders.Wait()
	return errors.Join(errs...)
}

// load takes up one value of the store. What is newer than the store's LSN is left to the log, which has it and everything
// between: so the table holds, at each moment of a recovery, no more devices and sources than it held at some moment before.
func (e *Engine) load(a *applier, value []byte) error {
	if len(value) < 8 {
		return fmt.Errorf("%w: a value of %d bytes", record.Err, len(value))
	}
	lsn := binary.LittleEndian.Uint64(value)
	if lsn > e.opts.Store.LSN() {
		for old := e.stored.Load(); old < lsn && !e.stored.CompareAndSwap(old, lsn); old = e.stored.Load() {
		}
		return nil
	}
	r, err := record.Parse(value[8:])
	if err != nil {
		return fmt.Errorf("LSN %d: %w", lsn, err)
	}
	return fullOnDisk(a.apply(lsn, r, 0, nil))
}

// deadlineAfterRestart counts the silence before the restart; the grace comes on top of it in dueAt. A wall clock that
// went backwards counts as no silence.
func deadlineAfterRestart(s *table.State, now Instant) int64 {
	silent := uint64(0)
	if now.WallMS > s.UpdatedAtMS {
		silent = min(now.WallMS-s.UpdatedAtMS, s.TTLMS)
	}
	return after(now.Nanos, s.TTLMS-silent)
}
