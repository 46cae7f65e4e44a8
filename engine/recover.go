package engine

import (
	"errors"
	"fmt"

	"rollcall/engine/table"
)

// recoverLog fills the table from the log. It runs alone, before the loops.
func (e *Engine) recoverLog() error {
	now := e.clock()
	e.sources.recovering = true
	defer func() { e.sources.recovering = false }()
	err := e.log.Replay(0, func(lsn uint64, record []byte) error {
		r, err := viewRecord(record)
		if err != nil {
			return fmt.Errorf("LSN %d: %w", lsn, err)
		}
		return e.replay(lsn, r, now)
	})
	if err != nil {
		return fmt.Errorf("engine: recovery: %w", err)
	}
	e.expiry.resume.Store(now.nanos)
	e.armAll(now.nanos)
	return nil
}

// replay applies one record. It goes by LSN, never by seq: the log's order is the order of acceptance.
func (e *Engine) replay(lsn uint64, r recordView, now instant) error {
	user, device := r.user(), r.device()
	_, entry, err := e.table.FindOrInsert(user, device)
	if errors.Is(err, table.ErrFull) {
		return fmt.Errorf("the log holds more devices than the table may (--max-devices): %w", err)
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

// deadlineAfterRestart counts the silence before the restart; the grace comes on top of it in dueAt. A wall clock that
// went backwards counts as no silence.
func deadlineAfterRestart(s *table.State, now instant) int64 {
	silent := uint64(0)
	if now.wallMS > s.UpdatedAtMS {
		silent = min(now.wallMS-s.UpdatedAtMS, s.TTLMS)
	}
	return after(now.nanos, s.TTLMS-silent)
}

// armAll files an item for every device that is online.
func (e *Engine) armAll(now int64) {
	e.table.Range(func(ref table.Ref, entry *table.Entry) bool {
		if s, ok := entry.Load(); ok && s.Online {
			e.arm(ref, entry, e.dueAt(s.DeadlineNanos, s.TTLMS), now)
		}
		return true
	})
}
