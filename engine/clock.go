package engine

import "time"

// Instant is one reading of both clocks.
type Instant struct {
	Nanos  int64  // monotonic, since the clock was made, above 0
	WallMS uint64 // unix milliseconds
}

// Clock reads both clocks of a process. Deadlines, and the instants at which streams end, are
// readings of one clock, so a process makes one and hands it to everything that needs one: an
// engine for each partition, the server. Any goroutine may call it. Tests pass their own.
type Clock func() Instant

// NewClock returns a clock whose monotonic reading begins now.
func NewClock() Clock {
	zero := time.Now()
	return func() Instant {
		now := time.Now()
		return Instant{Nanos: int64(now.Sub(zero)) + 1, WallMS: uint64(max(now.UnixMilli(), 0))}
	}
}

// Nanos is the monotonic reading alone.
func (c Clock) Nanos() int64 { return c().Nanos }

// Until is how long it is until the clock shows the next multiple of a period. Loops of one clock
// that sleep until then wake at the same instants, so that an idle process wakes once for all.
func (c Clock) Until(period time.Duration) time.Duration {
	return period - time.Duration(c.Nanos()%int64(period))
}

// Wall is the wall clock's reading alone, to the millisecond.
func (c Clock) Wall() time.Time { return time.UnixMilli(int64(c().WallMS)) }
