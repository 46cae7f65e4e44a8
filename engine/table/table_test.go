package table

import (
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/record"
)

// id makes an id that is unique for (kind, n).
func id(kind byte, n int) (u uuid.UUID) {
	u[0] = kind
	binary.BigEndian.PutUint64(u[8:], uint64(n)+1)
	return u
}

func user(n int) uuid.UUID   { return id('u', n) }
func device(n int) uuid.UUID { return id('d', n) }

// hashes are what the suite runs with: the real one, and such as real ids meet only by accident.
var hashes = map[string]func(user, device uuid.UUID) (uint64, uint64){
	"keyed":    nil,
	"constant": func(_, _ uuid.UUID) (uint64, uint64) { return 0, 0 },
	// One shard of several, few homes, one tag per home.
	"truncated": func(u, d uuid.UUID) (uint64, uint64) {
		return uint64(u[15] % 3), uint64(d[15] % 5)
	},
	// All homes are the last word, so that every probe wraps around.
	"last": func(u, d uuid.UUID) (uint64, uint64) {
		return 1<<64 - 1 - uint64(u[15]%2)<<60, 1<<32 - 1
	},
}

// eachHash runs the test with a table for each hash.
func eachHash(t *testing.T, o Options, test func(t *testing.T, tab *Table)) {
	for name, hash := range hashes {
		t.Run("hash="+name, func(t *testing.T) {
			o := o
			o.Hash = hash
			tab := New(o)
			defer tab.Close()
			test(t, tab)
			checkTable(t, tab)
		})
	}
}

// stateOf returns the state that tests give a device: every word follows from device and LSN, so
// that a torn read shows.
func stateOf(device uuid.UUID, seq, lsn uint64) *State {
	n := uint64(device[15])
	online, deadline, seen := lsn%2 == 0, int64(0), lsn*4096+n
	if online {
		deadline, seen = int64(lsn*4096+n), lsn*1024+n
	}
	return &State{
		State: record.State{
			Seq: seq, SentAtMS: lsn*256 + n, HeartbeatAtMS: lsn*512 + n, UpdatedAtMS: lsn*1024 + n,
			TTLMS: lsn*2048 + n, Online: online, Expired: lsn%3 == 0, SeenAtMS: seen,
		},
		LSN: lsn, DeadlineNanos: deadline, Source: uint32(lsn * 0x10001),
	}
}

// put commits a state for the device.
func put(t testing.TB, tab *Table, u, d uuid.UUID, seq, lsn uint64) (Ref, *Entry) {
	t.Helper()
	r, e, err := tab.FindOrInsert(u, d)
	if err != nil {
		t.Fatalf("FindOrInsert: %v", err)
	}
	if !e.Claim(u, d) {
		t.Fatalf("Claim of an entry that is not removed: false")
	}
	e.Commit(stateOf(d, seq, lsn))
	return r, e
}

// forget removes the device, which must be there.
func forget(t testing.TB, tab *Table, u, d uuid.UUID) {
	t.Helper()
	r, e := tab.Find(u, d)
	if e == nil || !e.Claim(u, d) {
		t.Fatalf("the device to be removed is not there")
	}
	tab.Remove(r, e)
}

// devicesOf returns the user's devices that have a state, as Devices and Read tell them.
func devicesOf(tab *Table, u uuid.UUID) (ids []uuid.UUID) {
	for _, r := range tab.Devices(u, nil) {
		if _, d, _, ok := tab.Entry(r).Read(); ok {
			ids = append(ids, d)
		}
	}
	return ids
}

// checkTable checks what must hold between the parts of a table while no goroutine uses it.
func checkTable(t testing.TB, tab *Table) {
	t.Helper()
	seen := map[Ref]string{}
	see := func(r Ref, where string) {
		if was, twice := seen[r]; twice {
			t.Fatalf("slot %d is %s and %s", r, was, where)
		}
		seen[r] = where
	}
	devices, users, free := 0, 0, 0
	for i := range tab.shards {
		s := &tab.shards[i]
		ix := s.devices.Load()
		checkIndex(t, ix)
		checkIndex(t, s.users.Load())
		for _, r := range s.refsLocked(nil) {
			see(r, "a device's")
			u, d := tab.Entry(r).IDs()
			if got, _ := tab.Find(u, d); got != r {
				t.Fatalf("slot %d holds %v, which leads to %d", r, d, got)
			}
			devices++
		}
		linked := 0
		for w := range s.users.Load().words {
			_, last := split(s.users.Load().words[w].Load())
			if last == 0 {
				continue
			}
			users++
			linked += checkRing(t, tab, last)
		}
		for u, ro := range s.rosters {
			users++
			linked += checkRoster(t, tab, u, ro)
		}
		if linked != ix.live {
			t.Fatalf("shard %d: %d devices are linked to users, %d are in the index", i, linked,
				ix.live)
		}
		n := 0
		for r := s.free; r != 0; r = tab.Entry(r).nextRef() {
			see(r, "free")
			if u, d := tab.Entry(r).IDs(); u != uuid.Nil || d != uuid.Nil ||
				tab.Entry(r).Armed() != 0 {
				t.Fatalf("free slot %d is not empty", r)
			}
			n++
		}
		if n != s.freeSlots {
			t.Fatalf("shard %d: %d free slots, counted as %d", i, n, s.freeSlots)
		}
		free += n + s.runSlots
	}
	st := tab.Stats()
	if devices != tab.Len() || users != tab.Users() || free != st.FreeSlots ||
		devices+free != st.Slots {
		t.Fatalf("found %d devices, %d users, %d free slots: %+v", devices, users, free, st)
	}
}

func checkIndex(t testing.TB, ix *index) {
	t.Helper()
	live, used := 0, 0
	for i := range ix.words {
		w := ix.words[i].Load()
		if _, r := split(w); r != 0 {
			live++
		}
		if w != vacant {
			used++
		}
	}
	if live != ix.live || used != ix.used || used == len(ix.words) {
		t.Fatalf("index of %d words has %d live, %d used: counted as %d and %d", len(ix.words),
			live, used, ix.live, ix.used)
	}
}

// checkRing returns the number of devices in the ring that ends with last: all of one user.
func checkRing(t testing.TB, tab *Table, last Ref) int {
	t.Helper()
	u, _ := tab.Entry(last).IDs()
	n := 1
	for r := tab.Entry(last).nextRef(); r != last; r = tab.Entry(r).nextRef() {
		if other, _ := tab.Entry(r).IDs(); other != u {
			t.Fatalf("slot %d of %v is linked to %v", r, other, u)
		}
		n++
	}
	return n
}

// checkRoster returns the number of devices in the roster: all of one user, which has no ring.
func checkRoster(t testing.TB, tab *Table, u words, ro *roster) int {
	t.Helper()
	for i, r := range ro.refs {
		e := tab.Entry(r)
		if !e.holdsUser(u) || int(e.nextRef()) != i {
			t.Fatalf("slot %d is at %d of the roster of another user, or says %d", r, i, e.nextRef())
		}
	}
	id := unwords(u.low, u.high)
	k := tab.key(id, uuid.Nil)
	if _, last := tab.shard(&k).lastLocked(tab.slab, &k); last != nil || len(ro.refs) == 0 {
		t.Fatalf("%v has a roster of %d devices; has it a ring, too: %v", id, len(ro.refs), last != nil)
	}
	return len(ro.refs)
}

func TestFirstSightHasNoState(t *testing.T) {
	eachHash(t, Options{Shards: 4}, func(t *testing.T, tab *Table) {
		if r, e := tab.Find(user(1), device(1)); r != 0 || e != nil {
			t.Fatalf("Find in an empty table: %d", r)
		}
		r, e, err := tab.FindOrInsert(user(1), device(1))
		if err != nil || tab.Entry(r) != e {
			t.Fatalf("FindOrInsert: %d, %v", r, err)
		}
		if _, ok := e.LastSeq(); ok {
			t.Errorf("LastSeq of a new entry: ok")
		}
		if s, ok := e.Load(); ok || s != (State{}) {
			t.Errorf("Load of a new entry: %+v", s)
		}
		if got := devicesOf(tab, user(1)); got != nil {
			t.Errorf("Devices tells an entry without a state: %v", got)
		}
		if again, _, _ := tab.FindOrInsert(user(1), device(1)); again != r {
			t.Errorf("FindOrInsert again: %d, want %d", again, r)
		}
	})
}

func TestOneDeviceIDUnderTwoUsersIsTwoDevices(t *testing.T) {
	eachHash(t, Options{Shards: 4}, func(t *testing.T, tab *Table) {
		a, _ := put(t, tab, user(1), device(1), 1, 1)
		b, _ := put(t, tab, user(2), device(1), 2, 2)
		if a == b || tab.Len() != 2 || tab.Users() != 2 {
			t.Errorf("refs %d and %d, %d devices, %d users", a, b, tab.Len(), tab.Users())
		}
	})
}

// TestDevicesComeInOrderOfFirstSight: those of a ring do.
func TestDevicesComeInOrderOfFirstSight(t *testing.T) {
	eachHash(t, Options{Shards: 2}, func(t *testing.T, tab *Table) {
		rng := testseed.Rand(t)
		var want []uuid.UUID
		for lsn := range uint64(400) {
			if n := len(want); n > 0 && (rng.IntN(3) == 0 || n > rosterMin-2) {
				// the first, a middle, the last one
				i := []int{0, n / 2, n - 1, rng.IntN(n)}[rng.IntN(4)]
				forget(t, tab, user(1), want[i])
				want = slices.Delete(want, i, i+1)
			} else {
				d := device(rng.IntN(1000))
				put(t, tab, user(1), d, lsn, lsn+1)
				if !slices.Contains(want, d) {
					want = append(want, d)
				}
			}
			put(t, tab, user(2), device(int(lsn%7)), lsn, lsn+1)
			if got := devicesOf(tab, user(1)); !slices.Equal(got, want) {
				t.Fatalf("after %d steps: got %v, want %v", lsn+1, got, want)
			}
		}
	})
}

func TestRangeStopsWhenTold(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	for n := range 10 {
		put(t, tab, user(1), device(n), 1, 1)
	}
	calls := 0
	tab.Range(func(Ref, *Entry) bool { calls++; return calls%3 != 0 })
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

// TestMaxDevicesPerUser: the bound holds in a ring and in a roster, for each user alone; what was
// known before a restart comes in over it, and a place that becomes free is there again.
func TestMaxDevicesPerUser(t *testing.T) {
	for _, limit := range []int{1, 3, rosterMin - 1, rosterMin, rosterMin + 1, 40} {
		tab := New(Options{Shards: 2, MaxDevicesPerUser: limit})
		for n := range limit {
			put(t, tab, user(1), device(n), 1, uint64(n+1))
			put(t, tab, user(2), device(n), 1, uint64(n+1))
		}
		if _, _, err := tab.FindOrInsert(user(1), device(99)); !errors.Is(err, ErrUserFull) {
			t.Errorf("one more than %d: %v", limit, err)
		}
		if _, e, err := tab.FindOrInsert(user(1), device(0)); e == nil || err != nil {
			t.Errorf("a known one of %d: %v", limit, err)
		}
		if _, _, err := tab.Restore(user(1), device(99)); err != nil {
			t.Errorf("one that was known before: %v", err)
		}
		forget(t, tab, user(1), device(99))
		forget(t, tab, user(1), device(0))
		if _, _, err := tab.FindOrInsert(user(1), device(98)); err != nil {
			t.Errorf("in the place of one of %d that was removed: %v", limit, err)
		}
		checkTable(t, tab)
		tab.Close()
	}
}

// TestRosterGivesMemoryBack: when most devices of a user are removed, in whatever order, those that
// stay are found and the roster's memory goes.
func TestRosterGivesMemoryBack(t *testing.T) {
	tab := New(Options{Shards: 1})
	defer tab.Close()
	const many = 5000
	for n := range many {
		put(t, tab, user(1), device(n), 1, uint64(n+1))
	}
	full := tab.Stats().IndexBytes
	for _, n := range testseed.Rand(t).Perm(many)[:many-10] {
		forget(t, tab, user(1), device(n))
	}
	checkTable(t, tab)
	u := user(1)
	ro := tab.shards[0].rosters[wordsOf(&u)]
	if len(ro.refs) != 10 || cap(ro.refs) > 64 || tab.Stats().IndexBytes >= full {
		t.Errorf("a roster of %d devices has room for %d", len(ro.refs), cap(ro.refs))
	}
	if got := len(devicesOf(tab, user(1))); got != 10 {
		t.Errorf("%d devices are left", got)
	}
}

func TestRangeMayRemove(t *testing.T) {
	eachHash(t, Options{Shards: 8}, func(t *testing.T, tab *Table) {
		for n := range 200 {
			put(t, tab, user(n%20), device(n), 1, 1)
		}
		tab.Range(func(r Ref, e *Entry) bool {
			u, d, _, ok := e.Read()
			if !ok || !e.Claim(u, d) {
				t.Fatal("an entry that only this goroutine removes has no state, or no claim")
			}
			tab.Remove(r, e)
			return true
		})
		if tab.Len() != 0 || tab.Users() != 0 {
			t.Errorf("%d devices, %d users are left", tab.Len(), tab.Users())
		}
	})
}

func TestFullTableRefusesAndTakesAgainAfterRemoval(t *testing.T) {
	eachHash(t, Options{Shards: 2, MaxDevices: 100}, func(t *testing.T, tab *Table) {
		for n := range 100 {
			put(t, tab, user(n), device(n), 1, 1)
		}
		if _, _, err := tab.FindOrInsert(user(100), device(100)); !errors.Is(err, ErrFull) {
			t.Fatalf("device 101 of 100: %v", err)
		}
		if _, _, err := tab.FindOrInsert(user(99), device(99)); err != nil {
			t.Fatalf("a known device in a full table: %v", err)
		}
		forget(t, tab, user(7), device(7))
		put(t, tab, user(7), device(100), 1, 1)
	})
}

// TestBudgetIsSharedByTables: a place that one table gives back, by a removal or its end, is
// another's.
func TestBudgetIsSharedByTables(t *testing.T) {
	budget := NewBudget(3)
	a, b := New(Options{Shards: 1, Budget: budget}),
		New(Options{Shards: 1, MaxDevices: 2, Budget: budget})
	defer b.Close()
	put(t, a, user(1), device(1), 1, 1)
	put(t, a, user(1), device(2), 1, 1)
	put(t, b, user(2), device(1), 1, 1)
	full := func(tab *Table) {
		t.Helper()
		if _, _, err := tab.FindOrInsert(user(3), device(9)); !errors.Is(err, ErrFull) {
			t.Errorf("one device too many: %v", err)
		}
	}
	full(a)
	full(b)
	if a.MaxDevices() != 2 || b.MaxDevices() != 1 || budget.Left() != 0 {
		t.Errorf("%d and %d may be, %d are left", a.MaxDevices(), b.MaxDevices(), budget.Left())
	}
	forget(t, a, user(1), device(1))
	put(t, b, user(2), device(2), 1, 1)
	full(a)
	full(b)
	a.Close()
	full(b) // over its own bound
	if budget.Left() != 1 || a.Len() != 0 {
		t.Errorf("%d places left and %d devices after the end of a table with one", budget.Left(),
			a.Len())
	}
}

// TestRestoreGoesOverTheBounds: what was known before comes in also over MaxDevices and a shared
// budget, and new devices come in again when enough are gone, whichever shard they belong to.
func TestRestoreGoesOverTheBounds(t *testing.T) {
	const bound, known = 10, 1000
	for name, o := range map[string]Options{
		"MaxDevices": {Shards: 4, MaxDevices: bound},
		"Budget":     {Shards: 4, Budget: NewBudget(bound)},
	} {
		t.Run(name, func(t *testing.T) {
			tab := New(o)
			defer tab.Close()
			for n := range known {
				_, e, err := tab.Restore(user(n), device(n))
				if err != nil {
					t.Fatalf("device %d: %v", n, err)
				}
				e.Claim(user(n), device(n))
				e.Commit(&State{LSN: 1})
			}
			if tab.Len() != known || tab.Over() != known-bound {
				t.Fatalf("%d devices, %d over", tab.Len(), tab.Over())
			}
			if _, _, err := tab.FindOrInsert(user(known), device(1)); !errors.Is(err, ErrFull) {
				t.Fatalf("a new device: %v", err)
			}
			for n := range known - bound {
				forget(t, tab, user(n), device(n))
			}
			if _, _, err := tab.FindOrInsert(user(known), device(1)); !errors.Is(err, ErrFull) {
				t.Fatalf("a new device at the bound: %v", err)
			}
			forget(t, tab, user(known-1), device(known-1))
			put(t, tab, user(known), device(1), 1, 1)
			if tab.Over() != 0 || tab.Len() != bound {
				t.Errorf("%d devices, %d over", tab.Len(), tab.Over())
			}
		})
	}
}

// TestSlotsOverTheLimit: restored devices raise the number of slots, and leave room for new runs.
func TestSlotsOverTheLimit(t *testing.T) {
	s := newSlab(1, maxRun)
	defer s.close()
	s.slots = s.limit
	if _, err := s.take(maxRun, false); !errors.Is(err, ErrFull) {
		t.Fatalf("over the limit: %v", err)
	}
	for _, over := range []bool{true, false} {
		if _, err := s.take(maxRun, over); err != nil {
			t.Errorf("over %v: %v", over, err)
		}
	}
}

// TestRefsRunOut fills the whole slab: here the last extent, since the real end is 400 GB away.
func TestRefsRunOut(t *testing.T) {
	tab := New(Options{Shards: 1, MaxDevices: 1 << 20})
	defer tab.Close()
	tab.slab.limit = extentSlots
	tab.slab.slots = extentSlots - 64
	const room = 1 + 1 + 2 + 4 + 8 + 16 + 32 // in runs; the next run would be one too many
	for n := range room {
		put(t, tab, user(1), device(n), 1, 1)
	}
	if _, _, err := tab.FindOrInsert(user(1), device(room)); !errors.Is(err, ErrFull) ||
		tab.Len() != room {
		t.Errorf("no slot left: %v, %d devices", err, tab.Len())
	}
	forget(t, tab, user(1), device(3))
	put(t, tab, user(1), device(room), 1, 1)
}

// TestRunMayCrossExtents hands out slots on both sides of a boundary.
func TestRunMayCrossExtents(t *testing.T) {
	s := newSlab(2*extentSlots, 0)
	defer s.close()
	s.slots = extentSlots - 10
	first, err := s.take(maxRun, false)
	if err != nil {
		t.Fatal(err)
	}
	for r := first; r < first+maxRun; r++ {
		e := s.entry(r)
		e.acquire()
		e.own(words{low: uint64(r)}, words{})
	}
	for r := first; r < first+maxRun; r++ {
		if got := s.entry(r).user[0].Load(); got != uint64(r) {
			t.Fatalf("slot %d holds %d", r, got)
		}
	}
}

func TestRemovedSlotIsUsedAgainAndOldClaimsFail(t *testing.T) {
	eachHash(t, Options{Shards: 1}, func(t *testing.T, tab *Table) {
		r, e := put(t, tab, user(1), device(1), 5, 1)
		if !e.ArmedCAS(0, 77) {
			t.Fatal("ArmedCAS")
		}
		forget(t, tab, user(1), device(1))
		if e.Claim(user(1), device(1)) || e.Is(user(1), device(1)) || e.Armed() != 0 {
			t.Fatal("a removed device still has its entry")
		}
		again, _ := put(t, tab, user(2), device(2), 3, 2)
		if again != r {
			t.Fatalf("slot %d was not used again, but %d", r, again)
		}
		if e.Claim(user(1), device(1)) {
			t.Fatal("the slot's former device claims it")
		}
		if seq, ok := e.LastSeq(); seq != 3 || !ok {
			t.Fatalf("LastSeq %d, %v", seq, ok)
		}
	})
}

// TestHeartbeatBetweenTheHalvesOfRemove steps into the moment in which Remove holds neither the
// claim nor the mutex (T4).
func TestHeartbeatBetweenTheHalvesOfRemove(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	r, e := put(t, tab, user(1), device(1), 5, 1)
	e.Claim(user(1), device(1))
	e.clear()
	put(t, tab, user(1), device(1), 1, 2) // its seq may start anew: it was forgotten
	k := tab.key(user(1), device(1))
	s := tab.shard(&k)
	s.mu.Lock()
	s.removeLocked(tab, &k, r, e)
	s.mu.Unlock()
	if got, ok := e.Load(); !ok || got.LSN != 2 || tab.Len() != 1 {
		t.Errorf("the heartbeat that got in between is lost: %+v, %v", got, ok)
	}
	checkTable(t, tab)
}

func TestIndexDoublesWhenSevenEighthsAreFull(t *testing.T) {
	tab := New(Options{Shards: 1})
	defer tab.Close()
	for n := range 10_000 {
		put(t, tab, user(1), device(n), 1, 1)
		words := len(tab.shards[0].devices.Load().words)
		if live := n + 1; live*8 > words*7 || (words > minWords && live*16 < words*7) {
			t.Fatalf("%d devices in %d words", live, words)
		}
	}
}

func TestIndexGivesTombstonesBack(t *testing.T) {
	eachHash(t, Options{Shards: 1}, func(t *testing.T, tab *Table) {
		for n := range 2000 {
			put(t, tab, user(n%3), device(n), 1, 1)
			if n >= 5 {
				forget(t, tab, user((n-5)%3), device(n-5))
			}
		}
		if words := len(tab.shards[0].devices.Load().words); words > 4*minWords {
			t.Errorf("an index of 5 devices has %d words", words)
		}
	})
}

// TestEmptiedIndexHasNoTombstones removes everything in random order: the last one out vacates what
// is left.
func TestEmptiedIndexHasNoTombstones(t *testing.T) {
	eachHash(t, Options{Shards: 1}, func(t *testing.T, tab *Table) {
		for n := range 100 {
			put(t, tab, user(n), device(n), 1, 1)
		}
		for _, n := range testseed.Rand(t).Perm(100) {
			forget(t, tab, user(n), device(n))
		}
		if s := &tab.shards[0]; s.devices.Load().used != 0 || s.users.Load().used != 0 {
			t.Errorf("%d and %d tombstones are left", s.devices.Load().used, s.users.Load().used)
		}
	})
}

// TestReuseWaitsForALateClaim lets a goroutine that still takes the slot for its former device hold
// the claim while the slot is given to another.
func TestReuseWaitsForALateClaim(t *testing.T) {
	tab := New(Options{Shards: 1})
	defer tab.Close()
	_, e := put(t, tab, user(1), device(1), 1, 1)
	forget(t, tab, user(1), device(1))
	e.acquire()
	inserted := make(chan struct{})
	go func() {
		defer close(inserted)
		tab.FindOrInsert(user(2), device(2))
	}()
	for tab.Len() == 0 {
		runtime.Gosched() // until the insert is on its way to the slot
	}
	for range 1000 {
		runtime.Gosched()
	}
	if e.Is(user(2), device(2)) {
		t.Error("the slot changed hands while its claim was held")
	}
	e.Unclaim()
	<-inserted
	if !e.Is(user(2), device(2)) {
		t.Error("the slot was not used again")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	u, d := user(1), device(1)
	put(t, tab, u, d, 1, 1)
	s := *stateOf(d, 2, 2)
	if n := testing.AllocsPerRun(100, func() {
		_, e := tab.Find(u, d)
		s.Seq++
		s.LSN++
		e.Claim(u, d)
		e.Commit(&s)
	}); n != 0 {
		t.Errorf("%v allocations per heartbeat", n)
	}
}

func TestShardsMustBeAPowerOfTwo(t *testing.T) {
	for _, n := range []int{-1, 3, 1000} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d shards were taken", n)
				}
			}()
			New(Options{Shards: n})
		}()
	}
}
