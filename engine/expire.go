package engine

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/engine/wheel"
	"rollcall/record"
)

const (
	tickNanos = int64(10 * time.Millisecond)
	// maxAhead bounds how far ahead an item is filed; a later deadline is looked at again then. It
	// keeps the wheel small when devices ask for a ttl of days.
	maxAhead = int64(time.Minute)
	// sliceItems bounds the work between two looks at the clock while the wheel catches up.
	sliceItems = 4096
	// waveItems is how many devices expire in a wave, at most: the loop has the log commit them and
	// looks at the clock. Few enough that no heartbeat waits long behind their records.
	waveItems = 16 * GroupSize
	// crowdItems are so many in a wave that others are likely due soon. The next wave then comes
	// crowdNanos later, since each costs a wake-up and a commit: a device that expires alone, or
	// among a few, is a millisecond late, and one in a crowd some.
	crowdItems = 8
	crowdNanos = int64(4 * time.Millisecond)
	// spellNanos is how long the loop works at a stretch while there is more to do. maxRestNanos
	// bounds its rest after that.
	spellNanos   = int64(time.Millisecond)
	maxRestNanos = int64(4 * time.Millisecond)
	// stallNanos: the silence during a longer pause of the process, or a longer commit, is the
	// server's and not the devices' (I8). For shorter ones see listening.
	stallNanos = int64(time.Second)
	// idleNanos is how long the loop sleeps at most.
	idleNanos = int64(250 * time.Millisecond)
	// expiryMaxWait is how long an expiry waits for room in the log; well under stallNanos, too.
	expiryMaxWait = 100 * time.Millisecond
)

// expirer turns silence into events. Its wheel is a hashed hierarchical timing wheel, see package
// wheel, and is used lazily: a heartbeat stores its deadline in the entry and leaves the wheel
// alone, unless the deadline is earlier than the item that is armed. When the tick of an item has
// come the entry decides: due, expire; later, file again; offline, disarm.
//
// An entry's `armed` word names the one item of it that counts, by its tick; any other is dropped
// when its tick comes. Two parties write it, by compare-and-swap. Neither may overlook the other:
//
//	heartbeat                        expire loop, at tick T of an item
//	store deadline D2 (early)        load deadline D1 (late)
//	load armed                       swap armed from T to tick(D1)
//	  T: comes soon enough             load deadline again
//	                                     D2: arm for D2 as a heartbeat does
//
// All of these are sequentially consistent, so either the heartbeat sees tick(D1) and files for D2
// itself, or the loop's second load sees D2.
//
// Any goroutine may call arm, armAll, postponeExpiry and dueAt. Everything else is
// the expire loop's, and Start's before it runs.
type expirer struct {
	*devices
	grace   int64 // Options.RecoveryGrace
	observe func(seconds float64)
	logger  *slog.Logger

	wheel *wheel.Wheel // single owner: the expire loop
	// single owner: the expire loop; the tick that it drains to
	horizon uint64
	due     dueList               // single owner: the expire loop
	held    heldList              // single owner: the expire loop
	handled int                   // single owner: the expire loop; items, in this turn
	scratch [record.MaxBytes]byte // single owner: the expire loop; of the encoded record
	group   [GroupSize]dueItem    // single owner: the expire loop; scratch of a wave
	// single owner: the expire loop; nothing expires before it, after a wave that was a crowd
	nextWave int64
	unkicked bool // single owner: the expire loop; it has appended since the last Kick

	filed queue

	listening listening // single owner: the expire loop

	// resume is the instant since when the server has listened without a gap (I8). Only grows.
	resume atomic.Int64

	expired atomic.Uint64
}

func newExpirer(d *devices, o *Options) *expirer {
	return &expirer{
		devices: d,
		grace:   int64(o.RecoveryGrace),
		observe: o.ObserveLateness,
		logger:  o.Logger,
		wheel:   wheel.New(tickOf(d.clock.Nanos())),
		filed:   queue{wake: make(chan struct{}, 1)},
	}
}

// tickOf is the tick in which an instant lies. Its lower half, the name by which an entry's armed
// word knows it, is never 0, which means that no item is armed.
func tickOf(nanos int64) uint64 {
	tick := uint64(max(nanos/tickNanos, 1))
	if uint32(tick) == 0 {
		tick++ // one tick late, once in 497 days
	}
	return tick
}

// dueAt is when a silent device expires: its deadline, but not before it had min(ttl, grace) to be
// heard again since the server last began to listen (I8). A heartbeat received after resume has a
// later deadline anyway.
func (x *expirer) dueAt(deadline int64, ttlMS uint64) int64 {
	return max(deadline, x.resume.Load()+min(ttlNanos(ttlMS), x.grace))
}

// postponeExpiry says that the server did not listen until now: no device expires before it could
// be heard again (I8).
func (x *expirer) postponeExpiry(now int64) {
	for {
		old := x.resume.Load()
		if old >= now || x.resume.CompareAndSwap(old, now) {
			return
		}
	}
}

// noteCommit postpones expiry after a commit that took too long: heartbeats waited for it.
func (x *expirer) noteCommit(took time.Duration) {
	if int64(took) > stallNanos {
		x.postponeExpiry(x.clock.Nanos())
	}
}

// arm makes sure that the loop looks at the entry no later than the deadline. Called after the
// deadline was stored in the entry.
func (x *expirer) arm(ref table.Ref, entry *table.Entry, deadline, now int64) {
	deadline = min(deadline, now+maxAhead)
	tick := tickOf(deadline)
	for {
		armed := entry.Armed()
		if armed != 0 && int32(uint32(tick)-armed) >= 0 {
			return
		}
		if entry.ArmedCAS(armed, uint32(tick)) {
			x.filed.put(wheel.Item{Ref: uint32(ref), Tick: uint32(tick)}, deadline)
			return
		}
	}
}

// lookAll decides by the entries what becomes of items whose tick has come: a group at a time, so
// that the cache misses of its entries overlap.
func (x *expirer) lookAll(items []wheel.Item) {
	for group := range slices.Chunk(items, GroupSize) {
		for _, it := range group {
			touch(x.table.Entry(table.Ref(it.Ref)))
		}
		for _, it := range group {
			x.look(it)
		}
	}
}

// touch loads both lines of an entry.
func touch(entry *table.Entry) {
	_, _ = entry.LSN(), entry.Armed()
}

// look decides by the entry what becomes of an item whose tick has come.
func (x *expirer) look(it wheel.Item) {
	x.handled++
	entry := x.table.Entry(table.Ref(it.Ref))
	if entry.Armed() != it.Tick {
		return
	}
	deadline := entry.DeadlineNanos()
	if tickOf(deadline) <= x.horizon {
		s, ok := entry.Load()
		if !ok || !s.Online {
			x.disarm(it, entry)
			return
		}
		deadline = x.dueAt(s.DeadlineNanos, s.TTLMS)
	}
	if tickOf(deadline) > x.horizon {
		x.refile(it, entry, deadline)
		return
	}
	x.due.add(dueItem{deadline: deadline, item: it})
}

// disarm forgets the item of a device that is offline, unless a heartbeat brought it back
// meanwhile: that one saw the item armed and relied on it.
func (x *expirer) disarm(it wheel.Item, entry *table.Entry) {
	if !entry.ArmedCAS(it.Tick, 0) {
		return
	}
	if s, ok := entry.Load(); ok && s.Online {
		x.arm(table.Ref(it.Ref), entry, s.DeadlineNanos, x.wheelNanos())
	}
}

// wheelNanos is the instant that the expire loop has reached.
func (x *expirer) wheelNanos() int64 { return int64(x.horizon) * tickNanos }

// refile moves the item to a later tick; the type's comment has the second look at the deadline.
func (x *expirer) refile(it wheel.Item, entry *table.Entry, deadline int64) {
	tick := tickOf(min(deadline, x.wheelNanos()+maxAhead))
	if !entry.ArmedCAS(it.Tick, uint32(tick)) {
		return
	}
	x.wheel.Add(it.Ref, tick)
	if again := entry.DeadlineNanos(); again >= deadline || tickOf(again) >= tick {
		return
	}
	if s, ok := entry.Load(); ok && s.Online && tickOf(x.dueAt(s.DeadlineNanos, s.TTLMS)) < tick {
		x.arm(table.Ref(it.Ref), entry, s.DeadlineNanos, x.wheelNanos())
	}
}

// fire expires one device that is due, unless it has been heard of since that was found out: a
// later deadline, though it may have passed by now, is held for what came before it.
func (x *expirer) fire(d dueItem) {
	x.handled++
	entry := x.table.Entry(table.Ref(d.item.Ref))
	for entry.Armed() == d.item.Tick {
		user, device, s, ok := entry.Read()
		if !ok || !s.Online {
			x.disarm(d.item, entry)
			return
		}
		at := x.dueAt(s.DeadlineNanos, s.TTLMS)
		if at > d.deadline {
			x.refile(d.item, entry, at)
			return
		}
		if x.expire(entry, user, device, &s, at) {
			x.disarm(d.item, entry)
			x.expired.Add(1)
			return
		}
		// A heartbeat was faster, or the log refused and dueAt has moved: look again.
	}
}

// expire takes a device offline as seen, which was due at an instant: the same way in as a
// heartbeat's, with no caller that waits. It returns false when the log refused, or when a
// heartbeat was faster (I4).
func (x *expirer) expire(
	entry *table.Entry, user, device uuid.UUID, seen *table.State, due int64,
) bool {
	source := x.sources.name(seen.Source)
	if entry.LSN() != seen.LSN {
		return false // the source's id may be another text's since
	}
	size := record.UserBytes(len(source))
	if x.log.Reserve(size, 0) != nil {
		x.kick() // what fills the log may be this very wave
		if err := x.log.Reserve(size, expiryMaxWait); err != nil {
			x.postponeExpiry(x.clock.Nanos() + 1)
			return false
		}
	}
	if !entry.Claim(user, device) {
		x.log.Release(size)
		return false
	}
	held := entry.Held()
	if held.LSN != seen.LSN {
		entry.Unclaim()
		x.log.Release(size)
		return false
	}
	now := x.clock()
	held.Online, held.Expired = false, true
	held.UpdatedAtMS = max(now.WallMS, table.NotAhead(held.UpdatedAtMS, now.WallMS)) // I9
	held.SentAtMS = held.UpdatedAtMS
	held.SeenAtMS = table.NotAhead(held.SeenAtMS, now.WallMS)
	held.LSN = x.logTurn(user, device, seen, &held, []byte(source), x.scratch[:0],
		Instant{WallMS: now.WallMS})
	x.unkicked = true
	entry.Commit(&held)
	x.counters.loops().moved(seen, &held)
	if x.observe != nil {
		x.observe(time.Duration(max(0, now.Nanos-due)).Seconds())
	}
	return true
}

// kick has the log commit what was appended for expiries since the last call.
func (x *expirer) kick() {
	if x.unkicked {
		x.unkicked = false
		x.log.Kick()
	}
}
