package engine

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"rollcall/record"
)

// crowd sends a first heartbeat of each of so many devices, all with the same TTL.
func (r *rig) crowd(devices int, ttlMS uint64) []*Heartbeat {
	r.t.Helper()
	hbs := make([]*Heartbeat, devices)
	for i := range hbs {
		hbs[i] = newHeartbeat(1, ttlMS)
		r.mustAccept(hbs[i])
	}
	return hbs
}

// expiries returns how often the log says that each device expired, and in which order they first
// did.
func (l *memLog) expiries() (counts map[uuid.UUID]int, order []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts = make(map[uuid.UUID]int)
	for _, rec := range l.records {
		if r := record.View(rec); r.State().Expired {
			if counts[r.Device()]++; counts[r.Device()] == 1 {
				order = append(order, r.Device())
			}
		}
	}
	return counts, order
}

// TestWaveIsCommittedAtOnce: the log is told once for all devices that are due together, up to a
// wave.
func TestWaveIsCommittedAtOnce(t *testing.T) {
	for devices, want := range map[int]int64{
		1: 1, GroupSize + 1: 1, waveItems: 1, 3*waveItems + 5: 4,
	} {
		r := startRig(t, newMemLog(), Options{})
		r.crowd(devices, 1000)
		r.advance(999 * time.Millisecond)
		before := r.log.kicks.Load()
		r.advance(time.Duration(tickNanos))
		if got, _ := r.log.expiries(); len(got) != devices {
			t.Errorf("%d of %d devices have expired", len(got), devices)
		}
		if n := r.log.kicks.Load() - before; n != want {
			t.Errorf("%d devices: the log was told %d times, want %d", devices, n, want)
		}
	}
}

// TestHeartbeatWithinAGroup: a device whose heartbeat comes when its group has been looked up, and
// before its turn, stays online for a whole TTL (I4).
func TestHeartbeatWithinAGroup(t *testing.T) {
	var r *rig
	var hbs []*Heartbeat
	saved := make(map[uuid.UUID]bool)
	inGroup := func(float64) {
		if len(saved) > 0 {
			return
		}
		saved[uuid.Nil] = true // its heartbeats expire nothing
		counts, _ := r.log.expiries()
		for i, hb := range hbs { // some of the same group, and of later ones
			if i%5 == 0 && counts[hb.Device] == 0 {
				hb.Seq++
				r.mustAccept(hb)
				saved[hb.Device] = true
			}
		}
	}
	r = startRig(t, newMemLog(), Options{ObserveLateness: inGroup})
	hbs = r.crowd(3*GroupSize, 1000)
	r.advance(1000*time.Millisecond + time.Duration(tickNanos))
	for _, hb := range hbs {
		if saved[hb.Device] {
			r.wantStatus(hb, Online)
		} else {
			r.wantStatus(hb, Offline)
		}
	}
	r.advance(time.Second)
	counts, _ := r.log.expiries()
	for _, hb := range hbs {
		r.wantStatus(hb, Offline)
		if counts[hb.Device] != 1 {
			t.Errorf("a device expired %d times", counts[hb.Device])
		}
	}
	wantSessionsEndOnce(t, r.log)
}

// TestLogFullWithinAGroup: devices that are due when the log has no more room wait until all could
// be heard again, and then expire, each once and in the order of their deadlines. What had been
// appended before was passed on to be committed, or there would never be room.
func TestLogFullWithinAGroup(t *testing.T) {
	const before, devices = GroupSize + 7, 3 * GroupSize
	var r *rig
	expired := 0
	fill := func(float64) {
		if expired++; expired == before {
			r.log.set(func() { r.log.full = true })
		}
	}
	r = startRig(t, newMemLog(), Options{ObserveLateness: fill, RecoveryGrace: time.Second})
	var hbs []*Heartbeat
	for range devices {
		hbs = append(hbs, r.crowd(1, 1000)...)
		r.now.Add(1000)
	}
	r.now.Add(int64(time.Second) - r.now.Load()%int64(time.Millisecond) + int64(time.Millisecond))
	kicks := r.log.kicks.Load()
	r.advance(time.Duration(tickNanos))
	if counts, _ := r.log.expiries(); len(counts) != before {
		t.Fatalf("%d devices have expired, want %d", len(counts), before)
	}
	if r.log.kicks.Load() == kicks {
		t.Error("the log was not told of what fills it")
	}
	r.log.set(func() { r.log.full = false })
	r.advance(980 * time.Millisecond)
	if counts, _ := r.log.expiries(); len(counts) != before {
		t.Fatalf("%d devices have expired before the others could be heard again", len(counts))
	}
	r.advance(50 * time.Millisecond)
	counts, order := r.log.expiries()
	for i, hb := range hbs {
		if r.wantStatus(hb, Offline); counts[hb.Device] != 1 {
			t.Errorf("a device expired %d times", counts[hb.Device])
		}
		if i < before && order[i] != hb.Device {
			t.Errorf("place %d is not that of its deadline", i)
		}
	}
	if r.log.reserved != 0 {
		t.Errorf("%d credits are out", r.log.reserved)
	}
}

// TestExpiryTakesTurns: while very many devices expire at once, the loop leaves others the
// processor for half of the time.
func TestExpiryTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const devices, each = 20 * waveItems, 4 * time.Microsecond
		var first, last time.Time
		toil := func(float64) {
			if time.Sleep(each); first.IsZero() {
				first = time.Now()
			}
			last = time.Now()
		}
		r := startStopped(t, Options{ObserveLateness: toil})
		defer r.shut()
		for range devices {
			r.receive(t, newHeartbeat(1, 1000), r.now())
		}
		time.Sleep(2 * time.Second)
		if n := r.expiry.expired.Load(); n != devices {
			t.Fatalf("%d of %d devices have expired", n, devices)
		}
		took, work := last.Sub(first), devices*each
		if took < work*3/2 || took > work*3 {
			t.Errorf("%v of work took %v", work, took)
		}
	})
}

// TestCrowdsAndHeartbeats: goroutines beat for devices whose TTLs end meanwhile, in crowds; no
// session ends twice, and none ends that was going on.
func TestCrowdsAndHeartbeats(t *testing.T) {
	log := newMemLog()
	e, err := New(log, Options{Shards: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	var beats sync.WaitGroup
	var accepted atomic.Int64
	for g := range 4 {
		beats.Go(func() {
			hbs := make([]*Heartbeat, 300)
			for i := range hbs {
				hbs[i] = newHeartbeat(0, uint64(1+(i+g)%20))
			}
			for range 20 {
				for _, hb := range hbs {
					hb.Seq++
					if e.Heartbeat(hb).Outcome == Accepted {
						accepted.Add(1)
					}
				}
			}
		})
	}
	beats.Wait()
	if n := accepted.Load(); n != 4*300*20 {
		t.Errorf("%d heartbeats were accepted", n)
	}
	wantSessionsEndOnce(t, log)
	log.close()
	e.stopLoops()
}
