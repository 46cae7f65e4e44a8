package engine

import (
	"math"
	"runtime"
	"time"

	"rollcall/engine/table"
)

// The expire loop: when it wakes, and what it does then. What becomes of a single device is in
// expire.go.

// run is the expire loop. It ends when stop is closed. While there is more to do it takes turn
// about with the rest of the process: it rests for as long as it has worked.
func (x *expirer) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	now := x.clock.Nanos()
	x.listening.last, x.listening.step = now, stepNanos
	woke := now // or began to work after a rest
	for next := now; ; now = x.clock.Nanos() {
		x.wake(now, next)
		next = x.turn(now)
		now = x.clock.Nanos()
		x.worked(now)
		if next <= now {
			if next = now; now-woke < spellNanos {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
					continue
				}
			}
			next = now + min(now-woke, maxRestNanos)
		}
		timer.Reset(time.Duration(next - now))
		select {
		case <-stop:
			return
		case <-timer.C:
		case <-x.filed.wake:
		}
		x.filed.awake()
		woke = x.clock.Nanos()
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
	// Buckets are drained one tick early, and a little before that when the loop is awake anyway;
	// what is due in them then fires by deadline.
	x.horizon = tickOf(now+crowdNanos) + 1
	caughtUp := x.wheel.Advance(x.horizon, sliceItems, x.lookAll)
	if more := x.fireAll(now); more || !caughtUp {
		return 0
	}
	next := x.nextTurn(now)
	if !x.filed.sleep(x.listening.wakeAt(now, next)) {
		return 0
	}
	return next
}

// fireAll expires what is due at now, or holds it until all that was sent before has been read: a
// wave at most, in groups whose entries are loaded together, and the log is told once. A group has
// neither claims nor credits: a heartbeat that comes before its device's turn saves it (I4), and
// where the log has no room the rest of the wave is filed again. It reports whether there may be
// more.
func (x *expirer) fireAll(now int64) (more bool) {
	defer x.kick()
	l := &x.listening
	// Not while a commit is slow: how long what is due is to be held shows when it ends.
	fires := l.commit == 0 && now >= x.nextWave
	for done := 0; ; {
		group := x.held.take(l.heard, x.group[:0])
		held := len(group)
		if fires {
			group = x.due.take(now, group)
		}
		if len(group) == 0 {
			if done >= crowdItems {
				x.nextWave = now + crowdNanos
			}
			return false
		}
		for i := range group {
			touch(x.table.Entry(table.Ref(group[i].item.Ref)))
		}
		for i, d := range group {
			if i >= held && l.caughtUp > l.heard {
				x.hold(d, now)
			} else {
				x.fire(d)
			}
		}
		if done += len(group); done >= waveItems {
			return true
		}
	}
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
		if soonest = max(deadline, x.nextWave); soonest <= now { // it waits for the end of a commit
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
