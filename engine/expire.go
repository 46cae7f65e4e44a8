package engine

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/engine/wheel"
	"rollcall/record"
)

const (
	tickNanos = int64(10 * time.Millisecond)
	// maxAhead bounds how far ahead an item is filed; a later deadline is looked at again then. It keeps the wheel small
	// when devices ask for a ttl of days.
	maxAhead = int64(time.Minute)
	// sliceItems bounds the work between two looks at the clock while the wheel catches up.
	sliceItems = 4096
	// stallNanos: a loop or a commit that is silent for longer made the server deaf (I8).
	stallNanos = int64(time.Second)
	// longestSleep of the expire loop, well under stallNanos, so that an idle loop never takes itself for a stalled one.
	longestSleep = int64(250 * time.Millisecond)
	// expiryPatience is how long an expiry waits for room in the log; well under stallNanos, too.
	expiryPatience = 100 * time.Millisecond
)

// expiry is the expire loop's own state. The wheel is lazy: a heartbeat stores its deadline in the entry and leaves the
// wheel alone, unless the deadline is earlier than the item that is armed. When an item comes up the entry decides: due,
// expire; later, file again; offline, disarm.
//
// An entry's `armed` word names the one item of it that counts, by its tick; any other is dropped when it comes up. Two
// parties write it, by compare-and-swap. Neither may overlook the other:
//
//	heartbeat                        expire loop, item of tick T up
//	store deadline D2 (early)        load deadline D1 (late)
//	load armed                       swap armed from T to tick(D1)
//	  T: comes up soon enough          load deadline again
//	                                     D2: arm for D2 as a heartbeat does
//
// All of these are sequentially consistent, so either the heartbeat sees tick(D1) and files for D2 itself, or the loop's
// second load sees D2.
type expiry struct {
	wheel   *wheel.Wheel // single owner: the expire loop, and Start before it runs
	horizon uint64       // single owner: the expire loop; the tick up to which this turn drains the wheel

	mu    sync.Mutex
	filed []wheel.Item // guarded by mu: armed by heartbeats, not yet in the wheel
	spare []wheel.Item // single owner: the expire loop; the other half of the double buffer

	scratch [record.MaxBytes]byte // single owner: the expire loop; of the encoded record

	due      []dueItem // single owner: the expire loop; ascending by deadline
	unsorted bool      // single owner: the expire loop; due has grown since it was sorted

	// wakeAt is when the sleeping loop will look again, 0 while it is awake. The loop stores it and then checks filed; a
	// heartbeat appends to filed and then loads it: one of the two sees the other.
	wakeAt atomic.Int64
	wake   chan struct{}

	// resume is the instant since when the server has listened without a gap (I8). Only grows.
	resume atomic.Int64
}

// dueItem waits for the last few milliseconds outside the wheel, so that lateness is not a whole tick.
type dueItem struct {
	deadline int64
	item     wheel.Item
}

// tickOf is the tick in which an instant lies. Its lower half, the name by which an entry's armed word knows it, is never
// 0, which means none there.
func tickOf(nanos int64) uint64 {
	tick := uint64(max(nanos/tickNanos, 1))
	if uint32(tick) == 0 {
		tick++ // one tick late, once in 497 days
	}
	return tick
}

// dueAt is when a silent device expires: its deadline, but not before it had min(ttl, grace) to be heard again since the
// server last began to listen (I8). A heartbeat received after resume has a later deadline anyway.
func (e *Engine) dueAt(deadline int64, ttlMS uint64) int64 {
	grace := min(ttlNanos(ttlMS), int64(e.opts.RecoveryGrace))
	return max(deadline, e.expiry.resume.Load()+grace)
}

// deaf notes that the server did not listen until now.
func (e *Engine) deaf(now int64) {
	for {
		old := e.expiry.resume.Load()
		if old >= now || e.expiry.resume.CompareAndSwap(old, now) {
			return
		}
	}
}

// arm makes sure that an item comes up no later than the deadline. Called after the deadline was stored in the entry.
func (e *Engine) arm(ref table.Ref, entry *table.Entry, deadline, now int64) {
	deadline = min(deadline, now+maxAhead)
	tick := tickOf(deadline)
	for {
		armed := entry.Armed()
		if armed != 0 && int32(uint32(tick)-armed) >= 0 {
			return
		}
		if entry.ArmedCAS(armed, uint32(tick)) {
			e.file(wheel.Item{Ref: uint32(ref), Tick: uint32(tick)}, deadline)
			return
		}
	}
}

// file hands an item to the expire loop and wakes it if it would sleep too long.
func (e *Engine) file(it wheel.Item, deadline int64) {
	x := &e.expiry
	x.mu.Lock()
	x.filed = append(x.filed, it)
	x.mu.Unlock()
	if at := x.wakeAt.Load(); at != 0 && deadline-tickNanos < at {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// expireLoop turns silence into events until stop is closed.
func (e *Engine) expireLoop(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := e.clock().Nanos
	for {
		now := e.clock().Nanos
		if now-last > stallNanos {
			e.opts.Logger.Warn("the server was paused; silence during the pause does not count",
				"pause", time.Duration(now-last))
			e.deaf(now)
		}
		last = now
		sleep := e.expireTurn(now)
		if sleep <= 0 {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		timer.Reset(time.Duration(sleep))
		select {
		case <-stop:
			return
		case <-timer.C:
		case <-e.expiry.wake:
		}
		e.expiry.wakeAt.Store(0)
	}
}

// expireTurn does what is due at now and returns how many nanoseconds the loop may sleep.
func (e *Engine) expireTurn(now int64) int64 {
	x := &e.expiry
	if int64(e.log.Committing()) > stallNanos {
		e.deaf(now) // daemons wait for an answer, or repeat what waits for one
	}
	e.fileAll()
	// Buckets are drained one tick early; what is due in them then fires by deadline.
	x.horizon = tickOf(now) + 1
	caughtUp := x.wheel.Advance(x.horizon, sliceItems, func(items []wheel.Item) {
		for _, it := range items {
			e.comeUp(it)
		}
	})
	e.fireDue(now)
	if !caughtUp {
		return 0
	}
	next := now + longestSleep
	if len(x.due) > 0 {
		next = min(next, x.due[0].deadline)
	}
	if tick, ok := x.wheel.Next(); ok {
		next = min(next, int64(tick-1)*tickNanos)
	}
	x.wakeAt.Store(max(next, 1))
	x.mu.Lock()
	waiting := len(x.filed)
	x.mu.Unlock()
	if waiting > 0 {
		x.wakeAt.Store(0)
		return 0
	}
	return next - e.clock().Nanos
}

// fileAll moves what heartbeats filed into the wheel.
func (e *Engine) fileAll() {
	x := &e.expiry
	x.mu.Lock()
	x.filed, x.spare = x.spare[:0], x.filed
	x.mu.Unlock()
	for _, it := range x.spare {
		x.wheel.Add(it.Ref, e.fullTick(it.Tick))
	}
	if cap(x.spare) > 1<<16 {
		x.spare = nil // a burst of new devices does not pin its memory
	}
}

// fullTick restores the upper half of a tick that is within 2^31 of the wheel's now.
func (e *Engine) fullTick(tick uint32) uint64 {
	now := e.expiry.wheel.Now()
	return now + uint64(int64(int32(tick-uint32(now))))
}

// comeUp looks at the entry of an item whose tick has come.
func (e *Engine) comeUp(it wheel.Item) {
	entry := e.table.Entry(table.Ref(it.Ref))
	if entry.Armed() != it.Tick {
		return
	}
	deadline := entry.DeadlineNanos()
	if tickOf(deadline) <= e.expiry.horizon {
		s, ok := entry.Load()
		if !ok || !s.Online {
			e.disarm(it, entry)
			return
		}
		deadline = e.dueAt(s.DeadlineNanos, s.TTLMS)
	}
	if tickOf(deadline) > e.expiry.horizon {
		e.refile(it, entry, deadline)
		return
	}
	e.expiry.due = append(e.expiry.due, dueItem{deadline: deadline, item: it})
	e.expiry.unsorted = true
}

// disarm forgets the item of a device that is offline, unless a heartbeat brought it back meanwhile: that one saw the item
// armed and relied on it.
func (e *Engine) disarm(it wheel.Item, entry *table.Entry) {
	if !entry.ArmedCAS(it.Tick, 0) {
		return
	}
	if s, ok := entry.Load(); ok && s.Online {
		e.arm(table.Ref(it.Ref), entry, s.DeadlineNanos, e.wheelNanos())
	}
}

// wheelNanos is the instant that the expire loop has reached.
func (e *Engine) wheelNanos() int64 { return int64(e.expiry.horizon) * tickNanos }

// refile moves the item to a later tick; see expiry for the second look at the deadline.
func (e *Engine) refile(it wheel.Item, entry *table.Entry, deadline int64) {
	x := &e.expiry
	tick := tickOf(min(deadline, e.wheelNanos()+maxAhead))
	if !entry.ArmedCAS(it.Tick, uint32(tick)) {
		return
	}
	x.wheel.Add(it.Ref, tick)
	if again := entry.DeadlineNanos(); again < deadline && tickOf(again) < tick {
		if s, ok := entry.Load(); ok && s.Online && tickOf(e.dueAt(s.DeadlineNanos, s.TTLMS)) < tick {
			e.arm(table.Ref(it.Ref), entry, s.DeadlineNanos, e.wheelNanos())
		}
	}
}

// fireDue expires, in the order of their deadlines, the devices whose deadline has passed.
func (e *Engine) fireDue(now int64) {
	x := &e.expiry
	if x.unsorted {
		slices.SortFunc(x.due, func(a, b dueItem) int { return cmp.Compare(a.deadline, b.deadline) })
		x.unsorted = false
	}
	n := 0
	for n < len(x.due) && x.due[n].deadline <= now {
		e.fire(x.due[n], now)
		n++
	}
	if x.due = slices.Delete(x.due, 0, n); len(x.due) == 0 && cap(x.due) > 1<<16 {
		x.due = nil // a burst of expiries does not pin its memory
	}
}

// fire expires one device, if it is still due.
func (e *Engine) fire(d dueItem, now int64) {
	entry := e.table.Entry(table.Ref(d.item.Ref))
	for entry.Armed() == d.item.Tick {
		user, device, s, ok := entry.Read()
		if !ok || !s.Online {
			e.disarm(d.item, entry)
			return
		}
		at := e.dueAt(s.DeadlineNanos, s.TTLMS)
		if at > now {
			e.refile(d.item, entry, at)
			return
		}
		if e.expire(entry, user, device, &s, at) {
			e.disarm(d.item, entry)
			e.counters.expired.Add(1)
			return
		}
		// A heartbeat was faster, or the log refused and dueAt has moved: look again.
	}
}

// expire takes a device offline as seen, which was due at an instant: the same way in as a heartbeat's, with nobody waiting.
// It returns false when the log refused, or when a heartbeat was faster (I4).
func (e *Engine) expire(entry *table.Entry, user, device uuid.UUID, seen *table.State, due int64) bool {
	source := e.sources.name(seen.Source)
	if entry.LSN() != seen.LSN {
		return false // the source's id may have been swept since
	}
	size := record.Bytes(len(source))
	if err := e.log.Reserve(size, expiryPatience); err != nil {
		e.deaf(e.clock().Nanos + 1)
		return false
	}
	if !entry.Claim(user, device) {
		e.log.Release(size)
		return false
	}
	held := entry.Held()
	if held.LSN != seen.LSN {
		entry.Unclaim()
		e.log.Release(size)
		return false
	}
	now := e.clock()
	held.Online, held.Expired = false, true
	held.SentAtMS, held.UpdatedAtMS = now.WallMS, now.WallMS
	held.DeadlineNanos = math.MaxInt64
	held.LSN = e.log.Append(record.Append(e.expiry.scratch[:0], user, device, &held.State, []byte(source)))
	entry.Commit(held)
	e.counters.lanes[0].moved(seen, &held)
	if observe := e.opts.ObserveLateness; observe != nil {
		observe(time.Duration(max(0, now.Nanos-due)).Seconds())
	}
	return true
}
