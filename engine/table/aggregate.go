package table

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Aggregate is what the turns of a user's devices say of the user. A turn is a change that moves a
// device between offline, or unknown, and online.
type Aggregate struct {
	TurnLSN     uint64 // of the last turn
	ChangedAtMS uint64 // receipt of the last turn, by the server's clock, in unix milliseconds
	// SeenAtMS is the highest of what turns said of their devices' SeenAtMS, and of what was shown
	// of the user. While Online is 0 it is exact; what online devices have sent since is in it only
	// if it was shown. It stays when a device is removed and others of the user are left. A turn
	// that is not committed is in it: RaiseSeen says what may be shown.
	SeenAtMS uint64
	Online   uint32 // devices that are online
}

// aggregates are those of a shard's users.
//
// A user has one from its first turn until its last device is removed, and Online is the number of
// its entries that are online: an entry goes from offline to online, or back, only by a Commit
// whose owner has moved the aggregate first (T6). A heartbeat of an online device that says online
// looks at none of it.
//
// The mutex is a leaf: its holder takes no other lock, waits for nothing and does no I/O. It is
// taken after a claim, or after the shard's mutex, or with neither. The owner of a claim appends
// the record of a turn while it holds the mutex, so that a user's turns are in the log in the
// order in which they moved the aggregate, though the claims of two devices exclude nothing:
//
//	device 1 goes offline              device 2 goes offline
//	claim 1                            claim 2
//	hold: Online 2
//	append LSN 7, 1 is left
//	release: Online 1
//	                                   hold: Online 1
//	                                   append LSN 8, none is left
//	                                   release: Online 0
//	commit 1                           commit 2
type aggregates struct {
	mu sync.Mutex
	// of is by user; guarded by mu. Neither keys nor values have pointers, so that the collector
	// does not look at them.
	of     map[words]packedAggregate
	online int // users with a device online; guarded by mu
	// flights are the shard's turns that were not committed when the last one of them was made, in
	// the order of their LSNs: no more than the log has in flight. Guarded by mu.
	flights []flight
}

// flight is a turn that changed SeenAtMS before it was committed.
type flight struct {
	user words
	lsn  uint64
	// seenAtMS is what SeenAtMS would be without this turn and later ones: what may be shown of the
	// user through an LSN below this one. What was shown since is in it.
	seenAtMS uint64
}

// spareFlights is how many flights a shard keeps room for.
const spareFlights = 64

// packedAggregate is an Aggregate in 24 bytes. Times have 48 bits and saturate, as UpdatedAtMS
// does.
type packedAggregate struct {
	turnLSN uint64
	changed uint64 // ChangedAtMS << 16 | Online, upper half
	seen    uint64 // SeenAtMS << 16 | Online, lower half
}

func (a *Aggregate) pack() packedAggregate {
	return packedAggregate{
		turnLSN: a.TurnLSN,
		changed: min(a.ChangedAtMS, maxUpdatedAt)<<16 | uint64(a.Online>>16),
		seen:    min(a.SeenAtMS, maxUpdatedAt)<<16 | uint64(uint16(a.Online)),
	}
}

func (p packedAggregate) unpack() Aggregate {
	return Aggregate{
		TurnLSN:     p.turnLSN,
		ChangedAtMS: p.changed >> 16,
		SeenAtMS:    p.seen >> 16,
		Online:      uint32(p.changed)<<16 | uint32(uint16(p.seen)),
	}
}

// Aggregate returns what is known of a user at one moment; false: no device of it ever turned.
func (t *Table) Aggregate(user uuid.UUID) (Aggregate, bool) {
	k := t.key(user, uuid.Nil)
	a := t.aggregatesOf(&k)
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.of[k.user]
	return p.unpack(), ok
}

// aheadMS is by how much a time may be ahead of the wall clock that the clock is believed to have
// been set back, and times wait for it. One that is further ahead is of a clock that was wrong.
const aheadMS = uint64(time.Minute / time.Millisecond)

// NotAhead returns a time that was noted before, in unix milliseconds, or the present one when it
// is ahead of that by more than a minute.
func NotAhead(ms, nowMS uint64) uint64 {
	if ms > nowMS+aheadMS {
		return nowMS
	}
	return ms
}

// RaiseSeen says that a user was seen at an instant that may be shown, and returns the latest such
// instant: by what is committed through an LSN, and by what was returned before. It does not go
// back (T7), but where a clock is put right: what is ahead of nowMS is taken as NotAhead says.
// through is no LSN above those that are committed.
func (t *Table) RaiseSeen(user uuid.UUID, seenAtMS, through, nowMS uint64) uint64 {
	k := t.key(user, uuid.Nil)
	in := t.aggregatesOf(&k)
	in.mu.Lock()
	defer in.mu.Unlock()
	p, ok := in.of[k.user]
	seenAtMS = NotAhead(seenAtMS, nowMS)
	if !ok {
		return seenAtMS
	}
	a := p.unpack()
	seenAtMS = max(seenAtMS, NotAhead(in.shownSeen(k.user, &a, through), nowMS))
	for i := range in.flights {
		if f := &in.flights[i]; f.user == k.user {
			f.seenAtMS = max(NotAhead(f.seenAtMS, nowMS), seenAtMS)
		}
	}
	if seen := max(NotAhead(a.SeenAtMS, nowMS), seenAtMS); seen != a.SeenAtMS {
		a.SeenAtMS = seen
		in.of[k.user] = a.pack()
	}
	return seenAtMS
}

// shownSeen is the SeenAtMS of a user's aggregate without the turns above through, as far as they
// are in flight: others are committed. mu is held.
func (a *aggregates) shownSeen(user words, of *Aggregate, through uint64) uint64 {
	if of.TurnLSN <= through {
		return of.SeenAtMS
	}
	for i := range a.flights {
		if f := &a.flights[i]; f.user == user && f.lsn > through {
			return f.seenAtMS
		}
	}
	return of.SeenAtMS
}

// HeldAggregate is a user's Aggregate, which no other goroutine sees until Release: see Hold.
type HeldAggregate struct {
	Aggregate
	in   *aggregates
	user words
	was  Aggregate // when it was taken
}

// Hold returns the user's aggregate and keeps all others from it until Release. The caller owns the
// claim of a device of the user, and must not wait for anything in between.
func (t *Table) Hold(user uuid.UUID) HeldAggregate {
	k := t.key(user, uuid.Nil)
	h := HeldAggregate{in: t.aggregatesOf(&k), user: k.user}
	h.in.mu.Lock()
	h.Aggregate = h.in.of[h.user].unpack()
	h.was = h.Aggregate
	return h
}

// Turn counts a device of the user that goes online, or offline, and was seen at an instant.
func (h *HeldAggregate) Turn(online bool, seenAtMS uint64) {
	switch {
	case online:
		h.Online++
	case h.Online == 0:
		panic("bug: table: more devices of a user go offline than are online")
	default:
		h.Online--
	}
	h.SeenAtMS = max(h.SeenAtMS, seenAtMS)
}

// Release lets others at the aggregate and leaves it as it was.
func (h *HeldAggregate) Release() { h.in.mu.Unlock() }

// Store replaces the aggregate by what it was made, and lets others at it.
func (h *HeldAggregate) Store() {
	a := h.in
	if a.of == nil {
		a.of = make(map[words]packedAggregate)
	}
	a.of[h.user] = h.pack()
	a.online += anyOnline(h.Online) - anyOnline(h.was.Online)
	a.mu.Unlock()
}

// StoreTurn is Store after a turn that got its LSN under Hold, of a log that is committed at least
// through an LSN.
func (h *HeldAggregate) StoreTurn(committed uint64) {
	a := h.in
	landed := 0
	for landed < len(a.flights) && a.flights[landed].lsn <= committed {
		landed++
	}
	if landed > 0 { // once for each commit
		a.flights = slices.Delete(a.flights, 0, landed)
	}
	if len(a.flights) == 0 && cap(a.flights) > spareFlights {
		a.flights = nil
	}
	if h.SeenAtMS != h.was.SeenAtMS && h.TurnLSN > committed {
		a.flights = append(a.flights, flight{h.user, h.TurnLSN, h.was.SeenAtMS})
	}
	h.Store()
}

// remove forgets the aggregate of a user without devices. The shard's mutex is held: no device of
// the user can come meanwhile, and only a claim of one moves the aggregate.
func (a *aggregates) remove(user words) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.of[user].unpack()
	a.online -= anyOnline(p.Online)
	delete(a.of, user)
	a.flights = slices.DeleteFunc(a.flights, func(f flight) bool { return f.user == user })
}

// anyOnline is 1 for a user with devices online, else 0.
func anyOnline(devices uint32) int { return int(min(devices, 1)) }

// UsersOnline returns the number of users with a device that is online.
func (t *Table) UsersOnline() int {
	n := 0
	for i := range t.aggregates {
		a := &t.aggregates[i]
		a.mu.Lock()
		n += a.online
		a.mu.Unlock()
	}
	return n
}

// aggregatesOf returns those of a user's shard. They lie apart from the shards, which heartbeats
// read all the time and turns would write to.
func (t *Table) aggregatesOf(k *key) *aggregates { return &t.aggregates[k.userHash>>t.shardShift] }

// RangeAggregates calls fn for the aggregate of each user of a shard that has one, in no order. It
// holds up the turns of the shard's users meanwhile, some tens of nanoseconds for each: fn must be
// short, waits for nothing and does not use the table.
func (t *Table) RangeAggregates(shard int, fn func(user uuid.UUID, a Aggregate)) {
	a := &t.aggregates[shard]
	a.mu.Lock()
	defer a.mu.Unlock()
	for user, p := range a.of {
		fn(unwords(user.low, user.high), p.unpack())
	}
}
