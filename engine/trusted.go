package engine

import (
	"log/slog"
	"time"

	"rollcall/engine/table"
)

// trustedClock is the wall clock for what cannot be taken back: forgetting. It moves on at most
// twice as fast as monotonic time, so that a jump of the wall clock, here or while the server was
// off, forgets nothing, and a server that was off for a month catches up while it runs. It is never
// ahead of the wall clock. A checkpoint keeps it for the next start. One goroutine at a time.
type trustedClock struct {
	ms    uint64 // at the last look
	nanos int64  // monotonic, of the last look
}

// look returns the trusted time in unix milliseconds.
func (c *trustedClock) look(now Instant) uint64 {
	passed := uint64(max(0, now.Nanos-c.nanos)) / uint64(time.Millisecond)
	c.ms, c.nanos = min(now.WallMS, c.ms+2*passed), now.Nanos
	return c.ms
}

// jumpNanos is by how much the wall clock may be set at once, without a word.
const jumpNanos = int64(time.Minute)

// trust sets the clock of a start to what the last checkpoint knew. Of one that kept no clock it is
// the last change that it has seen.
func (c *checkpointer) trust(now Instant) error {
	known, err := c.store.Clock()
	if err != nil {
		return err
	}
	if known == 0 {
		c.table.Range(func(_ table.Ref, entry *table.Entry) bool {
			if s, ok := entry.Load(); ok {
				known = max(known, s.UpdatedAtMS)
			}
			return true
		})
	}
	if known == 0 { // nothing to forget
		known = now.WallMS
	}
	c.trusted = trustedClock{ms: known, nanos: now.Nanos}
	switch ahead := time.Duration(int64(now.WallMS)-int64(known)) * time.Millisecond; {
	case int64(ahead) < -jumpNanos:
		c.logger.Warn("the wall clock is behind that of the last checkpoint",
			"wall", wallTime(now.WallMS), "checkpoint", wallTime(known))
	case ahead > c.forgetAfter:
		c.logger.Warn("the wall clock is far ahead of that of the last checkpoint: "+
			"devices are forgotten as if time passed twice as fast, until it has caught up",
			"wall", wallTime(now.WallMS), "checkpoint", wallTime(known))
	}
	return nil
}

// jumps notices when the wall clock is set. One goroutine.
type jumps struct{ last Instant }

func (j *jumps) look(now Instant, logger *slog.Logger) {
	last := j.last
	j.last = now
	expected := int64(last.WallMS) + (now.Nanos-last.Nanos)/int64(time.Millisecond)
	off := (int64(now.WallMS) - expected) * int64(time.Millisecond)
	if last.Nanos != 0 && max(off, -off) > jumpNanos {
		logger.Warn("the wall clock jumped", "expected", wallTime(uint64(expected)),
			"wall", wallTime(now.WallMS))
	}
}

func wallTime(ms uint64) string { return time.UnixMilli(int64(ms)).UTC().Format(time.RFC3339) }
