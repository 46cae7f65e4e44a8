package table

import (
	"math"
	"testing"

	"rollcall/internal/testseed"
	"rollcall/record"
)

// turn moves a device of a user as the engine does.
func turn(tab *Table, n, dev int, lsn uint64, online bool) {
	u, d := user(n), device(dev)
	_, e, err := tab.FindOrInsert(u, d)
	if err != nil {
		panic(err)
	}
	e.Claim(u, d)
	s := State{State: record.State{Online: online, UpdatedAtMS: lsn, SeenAtMS: lsn}, LSN: lsn}
	h := tab.Hold(u)
	h.Turn(online, lsn)
	h.TurnLSN, h.ChangedAtMS = lsn, 10*lsn
	h.Store()
	e.Commit(&s)
}

// TestAggregate moves a user's aggregate (T6) from its first turn to its end.
func TestAggregate(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	want := func(n, online int, w Aggregate, known bool) {
		t.Helper()
		if got, ok := tab.Aggregate(user(n)); got != w || ok != known {
			t.Errorf("user %d: %+v %v, want %+v %v", n, got, ok, w, known)
		}
		if got := tab.UsersOnline(); got != online {
			t.Errorf("%d users are online, want %d", got, online)
		}
	}
	want(1, 0, Aggregate{}, false)
	turn(tab, 1, 1, 5, true)
	want(1, 1, Aggregate{TurnLSN: 5, ChangedAtMS: 50, SeenAtMS: 5, Online: 1}, true)
	turn(tab, 1, 2, 6, true)
	turn(tab, 2, 1, 7, true)
	want(1, 2, Aggregate{TurnLSN: 6, ChangedAtMS: 60, SeenAtMS: 6, Online: 2}, true)
	turn(tab, 1, 1, 8, false)
	turn(tab, 1, 2, 9, false)
	want(1, 1, Aggregate{TurnLSN: 9, ChangedAtMS: 90, SeenAtMS: 9}, true)

	h := tab.Hold(user(1))
	h.TurnLSN = 99
	h.Release()
	want(1, 1, Aggregate{TurnLSN: 9, ChangedAtMS: 90, SeenAtMS: 9}, true)

	remove := func(n, dev int) {
		r, e := tab.Find(user(n), device(dev))
		e.Claim(user(n), device(dev))
		tab.Remove(r, e)
	}
	remove(1, 1)
	want(1, 1, Aggregate{TurnLSN: 9, ChangedAtMS: 90, SeenAtMS: 9}, true)
	remove(1, 2)
	want(1, 1, Aggregate{}, false)
	want(2, 1, Aggregate{TurnLSN: 7, ChangedAtMS: 70, SeenAtMS: 7, Online: 1}, true)

	// a user with a roster
	for dev := range 20 {
		turn(tab, 3, dev, 100+uint64(dev), true)
	}
	want(3, 2, Aggregate{TurnLSN: 119, ChangedAtMS: 1190, SeenAtMS: 119, Online: 20}, true)
	for dev := range 20 {
		turn(tab, 3, dev, 200+uint64(dev), false)
		remove(3, dev)
	}
	want(3, 1, Aggregate{}, false)
}

func TestPackedAggregate(t *testing.T) {
	for _, a := range []Aggregate{
		{},
		{TurnLSN: math.MaxUint64, ChangedAtMS: maxUpdatedAt, SeenAtMS: maxUpdatedAt,
			Online: math.MaxUint32},
		{TurnLSN: 1, ChangedAtMS: 2, SeenAtMS: 3, Online: 0x12345},
	} {
		p := a.pack()
		if got := p.unpack(); got != a {
			t.Errorf("%+v, want %+v", got, a)
		}
	}
	late := Aggregate{ChangedAtMS: math.MaxUint64, SeenAtMS: math.MaxUint64}
	p := late.pack()
	if got := p.unpack(); got.ChangedAtMS != maxUpdatedAt || got.SeenAtMS != maxUpdatedAt {
		t.Errorf("%+v does not saturate", got)
	}
}

// TestMoreOfflineThanOnline: the count is never below zero.
func TestMoreOfflineThanOnline(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	h := tab.Hold(user(1))
	defer h.Release()
	defer func() {
		if recover() == nil {
			t.Error("a device of a user with none online went offline")
		}
	}()
	h.Turn(false, 1)
}

// TestSeenDoesNotGoBack (T7): whatever turns are in flight, what RaiseSeen returns does not go
// back, and never holds what is not committed. The model keeps all that was said of each user, by
// LSN.
func TestSeenDoesNotGoBack(t *testing.T) {
	rng := testseed.Rand(t)
	type said struct{ lsn, ms uint64 }
	for range 200 {
		tab := New(Options{Shards: 1})
		const users, devices = 3, 3
		var online [users][devices]bool
		var heard [users][]said
		var returned [users]uint64
		lsn, committed, ms := uint64(0), uint64(0), uint64(1000)
		for range 300 {
			n := rng.IntN(users)
			ms += rng.Uint64N(3)
			switch rng.IntN(4) {
			case 0:
				committed += rng.Uint64N(lsn - committed + 1)
			case 1: // a turn; an offline one says what is some time ago
				dev := rng.IntN(devices)
				lsn++
				on := !online[n][dev]
				online[n][dev] = on
				seen := ms
				if !on {
					seen -= rng.Uint64N(5)
				}
				h := tab.Hold(user(n))
				h.Turn(on, seen)
				h.TurnLSN, h.ChangedAtMS = lsn, ms
				h.StoreTurn(committed - rng.Uint64N(min(committed, 2)+1)) // it may lag behind
				heard[n] = append(heard[n], said{lsn, seen})
			default: // a frame, perhaps of a heartbeat that is no turn
				through, given := committed-rng.Uint64N(min(committed, 2)+1), uint64(0)
				if rng.IntN(3) == 0 && through > 0 {
					given = ms
					heard[n] = append(heard[n], said{through, given})
				}
				if _, known := tab.Aggregate(user(n)); !known {
					heard[n] = nil // nothing is kept of a user that never turned
					continue
				}
				got := tab.RaiseSeen(user(n), given, through, ms)
				most, least := uint64(0), returned[n]
				for _, s := range heard[n] {
					if s.lsn <= committed {
						most = max(most, s.ms)
					}
					if s.lsn <= through {
						least = max(least, s.ms)
					}
				}
				if got < least || got > most {
					t.Fatalf("seen at %d, want %d to %d", got, least, most)
				}
				returned[n] = got
			}
		}
		h := tab.Hold(user(0))
		h.TurnLSN = lsn + 1
		h.StoreTurn(lsn)
		if left := tab.aggregates[0].flights; len(left) > 0 {
			t.Errorf("%d turns are in flight, and all are committed", len(left))
		}
		tab.Close()
	}
}
