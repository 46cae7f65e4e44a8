package broadcast

import (
	"math"
	"time"
)

const tickTime = 250 * time.Millisecond

// ticksOf is a duration in ticks, rounded up.
func ticksOf(d time.Duration) uint32 {
	ticks := d / tickTime
	if d%tickTime > 0 {
		ticks++
	}
	return uint32(min(ticks, math.MaxInt32))
}

// clock counts ticks. Single owner: its worker.
type clock struct {
	epoch int64  // nanoseconds at tick 1
	now   uint32 // tick
}

func (c *clock) start(nanos int64) { c.epoch, c.now = nanos, 1 }

func (c *clock) set(nanos int64) { c.now = c.tickOf(nanos) }

// tickOf is the tick that an instant lies in. The first is 1.
func (c *clock) tickOf(nanos int64) uint32 {
	return uint32(min(max(nanos-c.epoch, 0)/int64(tickTime), math.MaxInt32)) + 1
}

// tickUp is the first tick that begins at an instant or after it.
func (c *clock) tickUp(nanos int64) uint32 {
	if nanos <= c.epoch {
		return 1
	}
	d := nanos - c.epoch
	if d < 0 { // too far for the type
		d = math.MaxInt64
	}
	return ticksOf(time.Duration(d)) + 1
}

// after is the first tick that begins at least d from now.
func (c *clock) after(d time.Duration) uint32 { return c.now + ticksOf(d) }
