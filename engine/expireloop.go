package engine

import (
	"math"
	"time"

	"rollcall/engine/table"
	"rollcall/engine/wheel"
)

// The expire loop: when it wakes, and what it does then. What becomes of a single device is in
// expire.go.

// run is the expire loop. It ends when stop is closed.
func (x *expirer) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	now := x.clock.Nanos()
	x.listening.last, x.listening.step = now, stepNanos
	for next := now; ; now = x.clock.Nanos() {
		x.wake(now, next)
		next = x.turn(now)
		now = x.clock.Nanos()
		x.worked(now)
		if next <= now {
			next = now
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		timer.Reset(time.Duration(next - now))
		select {
		case <-stop:
			return
		case <-timer.C:
		case <-x.filed.wake:
		}
		x.filed.awake()
	}
}

// wake notes that the loop wakes, which meant to wake at an instant at the latest.
func (x *expirer) wake(now, meant int64) {
	if gap := x.listening.look(now, meant, x.log.Committing()); gap > stallNanos {
		x.logger.Warn("the server was paused; silence during the pause does not count",
			"pause", time.Duration(gap))
		x.postponeExpiry(now)
	}
}

// worked notes that a turn is over.
func (x *expirer) worked(now int64) {
	meant := x.listening.last + int64(x.handled)*itemNanos
	x.handled = 0
	x.wake(now, meant)
}

// turn does what is due at now and returns when the loop must look again; 0: at once.
func (x *expirer) turn(now int64) int64 {
	if int64(x.log.Committing()) > stallNanos {
		x.postponeExpiry(now) // daemons wait for an answer, or repeat what waits for one
	}
	x.fileAll()
	// Buckets are drained one tick early; what is due in them then fires by deadline.
	x.horizon = tickOf(now) + 1
	caughtUp := x.wheel.Advance(x.horizon, sliceItems, func(items []wheel.Item) {
		for _, it := range items {
			x.look(it)
		}
	})
	x.fireAll(now)
	if !caughtUp {
		return 0
	}
	next := x.nextTurn(now)
	if !x.filed.sleep(x.listening.wakeAt(now, next)) {
		return 0
	}
	return next
}

// fireAll expires what is due at now, or holds it until all that was sent before has been read.
func (x *expirer) fireAll(now int64) {
	l := &x.listening
	x.held.until(l.heard, x.fire)
	if l.commit > 0 {
		return // how long what is due is to be held shows when it ends
	}
	x.due.until(now, func(d dueItem) {
		if l.caughtUp > l.heard {
			x.hold(d, now)
			return
		}
		x.fire(d)
	})
}

// hold makes a device that is due wait. Its entry then says that its item comes in a minute, so
// that a heartbeat that is read meanwhile arms an item of its own. The second look at the deadline
// is refile's.
func (x *expirer) hold(d dueItem, now int64) {
	ref := table.Ref(d.item.Ref)
	entry := x.table.Entry(ref)
	tick := uint32(tickOf(now + maxAhead))
	if !entry.ArmedCAS(d.item.Tick, tick) {
		return
	}
	d.item.Tick = tick
	x.held.add(heldItem{caughtUp: x.listening.caughtUp, dueItem: d})
	if s, ok := entry.Load(); ok && s.Online && s.DeadlineNanos > d.deadline {
		x.arm(ref, entry, s.DeadlineNanos, now)
	}
}

// nextTurn is when the loop must look again, unless an item is filed before: see listening. Idle
// loops of several engines wake at the same instants of their common clock, so that the process
// wakes once for all.
func (x *expirer) nextTurn(now int64) int64 {
	l := &x.listening
	next := nextMultiple(now, idleNanos)
	soonest := int64(math.MaxInt64)
	if deadline, ok := x.due.first(); ok {
		if soonest = deadline; deadline <= now { // it waits for the end of a commit
			soonest = now + stepNanos
		}
		next = min(next, soonest, halfway(now, soonest))
	}
	if tick, ok := x.wheel.Next(); ok {
		deadline := int64(tick) * tickNanos // or later
		soonest = min(soonest, deadline)
		next = min(next, deadline-tickNanos, max(halfway(now, deadline), now+tickNanos))
	}
	if l.behind() > 0 {
		next = min(next, max(now+l.step, l.watchFrom(soonest)))
	}
	if caughtUp, ok := x.held.first(); ok {
		next = min(next, now+min(caughtUp-l.heard, l.step))
	}
	return next
}

// nextMultiple is the first multiple of period after now.
func nextMultiple(now, period int64) int64 { return (now/period + 1) * period }

// fileAll moves what heartbeats filed into the wheel.
func (x *expirer) fileAll() {
	items := x.filed.take()
	for _, it := range items {
		x.wheel.Add(it.Ref, x.fullTick(it.Tick))
	}
	x.handled += len(items)
}

// fullTick restores the upper half of a tick that is within 2^31 of the wheel's now.
func (x *expirer) fullTick(tick uint32) uint64 {
	now := x.wheel.Now()
	return now + uint64(int64(int32(tick-uint32(now))))
}
