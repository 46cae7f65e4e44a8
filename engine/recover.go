package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// recoverLog fills the table from the checkpoint and what the log has beyond it. It runs alone, before the loops.
func (e *Engine) recoverLog(now instant) error {
	defer e.tellProgress()()
	e.sources.recovering = true
	defer func() { e.sources.recovering = false }()
	through := uint64(0)
	if e.opts.Store != nil {
		through = e.opts.Store.LSN()
		if err := e.loadCheckpoint(now); err != nil {
			return fmt.Errorf("engine: recovery from the checkpoint: %w", err)
		}
	}
	e.recovery.step.Store(stepLog)
	err := e.log.Replay(through, func(lsn uint64, record []byte) error {
		e.logged.Add(int64(len(record)))
		return e.replay(lsn, record, now)
	})
	if err != nil {
		return fmt.Errorf("engine: recovery: %w", err)
	}
	if next, _, _ := e.log.Replayed(); next <= e.stored.Load() {
		return fmt.Errorf("engine: the log ends at record %d, but the checkpoint has seen %d: the disk lost what it had confirmed, or "+
			"segments were taken away; restore the data directory from a backup", next-1, e.stored.Load())
	}
	return nil
}

// loadCheckpoint reads the store's ranges, as many at a time as there are processors: they lie in different shards.
func (e *Engine) loadCheckpoint(now instant) error {
	ranges := min(maxRanges, e.table.Shards())
	e.recovery.ranges.Store(int64(ranges))
	var next atomic.Int64
	var loaders sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		loaders.Go(func() {
			for r := int(next.Add(1)) - 1; r < ranges && errs[i] == nil; r = int(next.Add(1)) - 1 {
				lo, hi := rangeBounds(r, ranges)
				stored := int64(0)
				errs[i] = e.opts.Store.Load(lo, hi, func(_, value []byte) error {
					stored++
					return e.load(value, now)
				})
				e.recovery.stored.Add(stored)
				e.recovery.parts.Add(1)
			}
		})
	}
	loaders.Wait()
	return errors.Join(errs...)
}

// load takes up one value of the store. What is newer than the store's LSN is left to the log, which has it and everything
// between: so the table holds, at each moment of a recovery, no more devices and sources than it held at some moment before.
func (e *Engine) load(value []byte, now instant) error {
	if len(value) < 8 {
		return fmt.Errorf("%w: a value of %d bytes", errRecord, len(value))
	}
	lsn := binary.LittleEndian.Uint64(value)
	if lsn > e.opts.Store.LSN() {
		for old := e.stored.Load(); old < lsn && !e.stored.CompareAndSwap(old, lsn); old = e.stored.Load() {
		}
		return nil
	}
	return e.replay(lsn, value[8:], now)
}

// replay applies one record. It goes by LSN, never by seq: the log's order is the order of acceptance.
func (e *Engine) replay(lsn uint64, record []byte, now instant) error {
	r, err := viewRecord(record)
	if err != nil {
		return fmt.Errorf("LSN %d: %w", lsn, err)
	}
	user, device := r.user(), r.device()
	if r.forget() {
		e.replayForget(lsn, user, device)
		return nil
	}
	_, entry, err := e.table.FindOrInsert(user, device)
	if errors.Is(err, table.ErrFull) {
		return fmt.Errorf("there are more devices on disk than --max-devices=%d allows: raise it, or set it to 0: %w", e.opts.MaxDevices, err)
	}
	if err != nil {
		return err
	}
	if lsn <= entry.LSN() {
		return nil
	}
	source, err := e.sources.intern(r.source(), e.table, now.nanos)
	if err != nil {
		return err
	}
	defer e.sources.unpin(source)
	next := r.state()
	next.LSN, next.Source = lsn, source
	next.DeadlineNanos = deadlineAfterRestart(&next, now)
	if !entry.Claim(user, device) {
		panic("bug: an entry changed hands during recovery")
	}
	entry.Commit(next)
	return nil
}

func (e *Engine) replayForget(lsn uint64, user, device uuid.UUID) {
	e.forgot[e.rangeOf(user)] = lsn
	ref, entry := e.table.Find(user, device)
	if entry == nil || lsn <= entry.LSN() {
		return
	}
	if !entry.Claim(user, device) {
		panic("bug: an entry changed hands during recovery")
	}
	e.table.Remove(ref, entry)
}

// deadlineAfterRestart counts the silence before the restart; the grace comes on top of it in dueAt. A wall clock that
// went backwards counts as no silence.
func deadlineAfterRestart(s *table.State, now instant) int64 {
	silent := uint64(0)
	if now.wallMS > s.UpdatedAtMS {
		silent = min(now.wallMS-s.UpdatedAtMS, s.TTLMS)
	}
	return after(now.nanos, s.TTLMS-silent)
}

// armAll files an item for every device that is online, and counts all.
func (e *Engine) armAll(now int64) {
	var devices [2]int64
	e.table.Range(func(ref table.Ref, entry *table.Entry) bool {
		s, ok := entry.Load()
		if !ok {
			return true
		}
		devices[statusOf(&s)]++
		if s.Online {
			e.arm(ref, entry, e.dueAt(s.DeadlineNanos, s.TTLMS), now)
		}
		return true
	})
	for status, n := range devices {
		e.counters.lanes[0].devices[status].Store(n)
	}
}
