package engine

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// wantDevices compares the counters with the table.
func (r *rig) wantDevices(online, offline int) {
	r.t.Helper()
	s := r.Stats()
	if s.Online != online || s.Offline != offline {
		r.t.Errorf("%d devices are online and %d offline, want %d and %d", s.Online, s.Offline,
			online, offline)
	}
	counted := [2]int{}
	r.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		if s, ok := entry.Load(); ok {
			counted[s.Status()]++
		}
		return true
	})
	if counted != [2]int{Offline: s.Offline, Online: s.Online} {
		r.t.Errorf("counted %d online and %d offline, but the table has %d and %d", s.Online,
			s.Offline, counted[Online], counted[Offline])
	}
	checkAggregates(r.t, r.devices)
}

// checkAggregates compares the aggregates of all users with their devices (T6), while nothing
// changes. Nothing was forgotten of a user that is still there.
func checkAggregates(t *testing.T, d *devices) {
	t.Helper()
	users := make(map[uuid.UUID]table.Aggregate)
	d.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		if user, _, s, ok := entry.Read(); ok {
			u := users[user]
			if s.Online {
				u.Online++
			}
			u.SeenAtMS = max(u.SeenAtMS, s.SeenAtMS)
			users[user] = u
		}
		return true
	})
	online := 0
	for user, want := range users {
		got, known := d.table.Aggregate(user)
		if got.Online != want.Online || got.Online == 0 && got.SeenAtMS != want.SeenAtMS ||
			got.SeenAtMS > want.SeenAtMS || known != (want.SeenAtMS > 0) {
			t.Errorf("user %s: the aggregate is %+v, %v, the devices say %d online, seen at %d",
				user, got, known, want.Online, want.SeenAtMS)
		}
		if want.Online > 0 {
			online++
		}
	}
	if got := d.table.UsersOnline(); got != online || d.table.Users() != len(users) {
		t.Errorf("%d of %d users are online, the devices say %d of %d", got, d.table.Users(), online,
			len(users))
	}
}

// TestDevicesAreCountedByStatus through each way in which a status changes.
func TestDevicesAreCountedByStatus(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{MaxDevices: 4})
	r.wantDevices(0, 0)
	a, b, c := newHeartbeat(1, 1000), newHeartbeat(1, 60_000), newHeartbeat(1, 60_000)
	b.Status = Offline
	for _, hb := range []*Heartbeat{a, b, c} {
		r.mustAccept(hb)
	}
	r.wantDevices(2, 1)
	a.Seq++
	r.mustAccept(a) // online stays online
	if res := r.Heartbeat(a); res.Outcome != Stale {
		t.Fatalf("%+v", res)
	}
	r.wantDevices(2, 1)
	b.Seq, b.Status = 2, Online
	c.Seq, c.Status = 2, Offline
	r.mustAccept(b)
	r.mustAccept(c)
	r.wantDevices(2, 1)
	r.advance(2 * time.Second)
	r.wantStatus(a, Offline)
	r.wantDevices(1, 2)
	r.mustAccept(newHeartbeat(1, 60_000))
	if res := r.Heartbeat(newHeartbeat(1, 1000)); res.Outcome != Unavailable {
		t.Fatalf("a fifth device: %+v", res)
	}
	r.wantDevices(2, 2)
	if s := r.Stats(); s.DevicesRefused != 1 || s.MaxDevices != 4 || s.Unavailable != 1 ||
		s.Stale != 1 || s.Accepted != 7 {
		t.Errorf("%+v", s)
	}
	// What is known after a restart is counted, too.
	after := newMemLog()
	log.set(func() { after.records = log.records })
	startRig(t, after, Options{}).wantDevices(2, 2)
}

// TestDevicesAreCountedUnderRace: many goroutines flip a few devices and count in stripes of their
// own.
func TestDevicesAreCountedUnderRace(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	rng := testseed.Rand(t)
	seeds := make([]uint64, 8)
	for i := range seeds {
		seeds[i] = rng.Uint64()
	}
	users := [4]uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	var writers sync.WaitGroup
	for i := range seeds {
		writers.Go(func() {
			hb := newHeartbeat(0, 60_000)
			hb.Device = uuid.UUID{15: 1}
			for step := range 200 {
				bits := seeds[i] >> (step % 56)
				hb.User, hb.Status = users[bits&3], Status(bits>>2&1)
				hb.Seq = uint64(step*len(seeds) + i)
				r.Heartbeat(hb)
				runtime.Gosched()
			}
		})
	}
	writers.Wait()
	s := r.Stats()
	if s.Online+s.Offline != 4 && s.Users == 4 {
		t.Errorf("%d online and %d offline of %d", s.Online, s.Offline, s.Users)
	}
	r.wantDevices(s.Online, s.Offline)
	if n := s.Accepted + s.Stale; n != uint64(200*len(seeds)) || s.Accepted < 4 {
		t.Errorf("%d heartbeats counted, %d of them accepted, want %d", n, s.Accepted,
			200*len(seeds))
	}
}

// TestLatenessIsObserved from the deadline to the expiry, on the engine's clock.
func TestLatenessIsObserved(t *testing.T) {
	var seen []float64
	r := startRig(t, newMemLog(),
		Options{ObserveLateness: func(s float64) { seen = append(seen, s) }})
	r.mustAccept(newHeartbeat(1, 1000))
	r.advance(900 * time.Millisecond)
	if len(seen) != 0 {
		t.Fatalf("observed %v before the deadline", seen)
	}
	r.now.Store(1 + int64(1300*time.Millisecond)) // the loop did not run at the deadline
	for r.expiry.turn(r.now.Load()) <= 0 {
	}
	if len(seen) != 1 || seen[0] != 0.3 {
		t.Errorf("observed %v, want 0.3 s", seen)
	}
}

// TestDeliveryIsObserved from the receipt of the first heartbeat of a commit.
func TestDeliveryIsObserved(t *testing.T) {
	seen := make(chan float64, 16)
	log := newMemLog()
	r := startRig(t, log, Options{ObserveDelivery: func(s float64) { seen <- s }})
	first, second := newHeartbeat(1, 60_000), newHeartbeat(1, 60_000)
	second.User = first.User
	conn := follow(t, r.Engine, first.User)
	log.set(func() { log.held = true })
	var daemons sync.WaitGroup
	for i, hb := range []*Heartbeat{first, second} {
		daemons.Go(func() { r.mustAccept(hb) })
		testwait.Until(t, "it is appended", func() bool { return r.log.Appended() == uint64(i+1) })
		r.now.Add(int64(time.Second))
	}
	r.now.Add(int64(time.Second))
	log.set(func() { log.held = false })
	daemons.Wait()
	conn.waitFrames(t, 2)
	if got := <-seen; got != 3 {
		t.Errorf("observed %v s, want the 3 since the first", got)
	}
	select {
	case again := <-seen:
		t.Errorf("observed %v s, too", again)
	default:
	}
}

// TestReceiptTravelsWithTheBatch: the log hands back when the first heartbeat was received,
// whatever the device did since; an expiry was not received.
func TestReceiptTravelsWithTheBatch(t *testing.T) {
	log, sink := newMemLog(), &recorder{}
	r := startRig(t, log, Options{Events: sink})
	hb, long := newHeartbeat(1, 1000), newHeartbeat(1, 1<<53-1)
	r.now.Store(int64(5 * time.Second))
	log.set(func() { log.held = true })
	var daemons sync.WaitGroup
	for i, hb := range []*Heartbeat{hb, long} {
		daemons.Go(func() { r.mustAccept(hb) })
		testwait.Until(t, "it is appended", func() bool { return log.Appended() == uint64(i+1) })
		r.now.Add(int64(500 * time.Millisecond))
	}
	r.advance(time.Second)
	// A heartbeat files its timer behind its record: the turns may have come before.
	testwait.Until(t, "the device has expired", func() bool {
		r.advance(0)
		return log.Appended() == 3
	})
	log.set(func() { log.held = false })
	daemons.Wait()
	testwait.Until(t, "the expiry is flushed", func() bool {
		return slices.Contains(sink.seen(), "flush 0 3 received 5s")
	})
	hb.Seq++
	r.mustAccept(hb)
	r.advance(2 * time.Second)
	r.wantStatus(hb, Offline)
	testwait.Until(t, "the second expiry is flushed", func() bool {
		return slices.Contains(sink.seen(), "flush 0 5 received 0s")
	})
	if !slices.Contains(sink.seen(), "flush 0 4 received 7s") {
		t.Errorf("%q", sink.seen())
	}
}
