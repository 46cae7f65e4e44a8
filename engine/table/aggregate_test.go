package table

import (
	"math"
	"testing"

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
