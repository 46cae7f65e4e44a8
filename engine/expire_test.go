package engine

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/record"
)

func TestExpiryOnTime(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	for _, ttl := range []uint64{1, 9, 10, 11, 250, 999, 61_000, 200_000} {
		hb := newHeartbeat(1, ttl)
		r.mustAccept(hb)
		due := time.Duration(ttl) * time.Millisecond
		r.advance(due - 1)
		r.wantStatus(hb, Online)
		r.advance(time.Duration(tickNanos))
		if rec := r.wantStatus(hb, Offline); rec.Seq != 1 || rec.Source != "test" ||
			rec.TTLMS != ttl {
			t.Errorf("ttl %d: record %+v", ttl, rec)
		}
	}
}

func TestExpiryExtended(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(0, 1000)
	for ; hb.Seq < 100; hb.Seq++ {
		r.mustAccept(hb)
		r.advance(300 * time.Millisecond)
		r.wantStatus(hb, Online)
	}
	r.advance(710 * time.Millisecond)
	r.wantStatus(hb, Offline)
	if n := r.expiry.wheel.Len(); n > 1 {
		t.Errorf("100 heartbeats left %d items in the wheel", n)
	}
}

func TestExpiryShortenedAndLengthened(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(1, 60_000)
	r.mustAccept(hb)
	hb.Seq, hb.TTLMS = 2, 200
	r.mustAccept(hb)
	r.advance(199 * time.Millisecond)
	r.wantStatus(hb, Online)
	r.advance(2 * time.Millisecond)
	r.wantStatus(hb, Offline)

	hb.Seq = 3
	r.mustAccept(hb)
	hb.Seq, hb.TTLMS = 4, 5000
	r.mustAccept(hb)
	r.advance(4999 * time.Millisecond)
	r.wantStatus(hb, Online)
	r.advance(2 * time.Millisecond)
	r.wantStatus(hb, Offline)
}

func TestExplicitOfflineCancelsTTL(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(1, 100)
	r.mustAccept(hb)
	hb.Seq, hb.Status = 2, Offline
	r.mustAccept(hb)
	r.advance(time.Second)
	if rec := r.wantStatus(hb, Offline); rec.SentAtMS != hb.SentAtMS {
		t.Errorf("an offline device expired: %+v", rec)
	}
	if n := r.expiry.wheel.Len(); n != 0 {
		t.Errorf("%d items stay in the wheel for a device that is offline", n)
	}
}

// TestHugeTTL: deadlines saturate (I7).
func TestHugeTTL(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(1, 1<<53-1)
	r.mustAccept(hb)
	r.advance(3 * time.Minute)
	r.wantStatus(hb, Online)
	if at := after(math.MaxInt64-5, 1); at != math.MaxInt64 {
		t.Errorf("a deadline wraps: %d", at)
	}
}

// TestExpiryAgainstModel drives random heartbeats and time against a plain model of the contract:
// of devices here and there, and of crowds whose TTLs end together.
func TestExpiryAgainstModel(t *testing.T) {
	for name, s := range map[string]struct {
		devices, steps, burst int
		ttls, unit            int
	}{
		"few":    {50, 2000, 4, 3000, 1},
		"crowds": {2000, 150, 1500, 7, 20},
	} {
		t.Run(name, func(t *testing.T) {
			testExpiryAgainstModel(t, s.devices, s.steps, s.burst, s.ttls, s.unit)
		})
	}
}

// testExpiryAgainstModel takes steps of time, each after less than burst heartbeats of random
// devices, whose TTLs are up to so many units of milliseconds.
func testExpiryAgainstModel(t *testing.T, count, steps, burst, ttls, unit int) {
	rng := testseed.Rand(t)
	r := startRig(t, newMemLog(), Options{})
	type model struct {
		hb       *Heartbeat
		online   bool
		deadline int64
	}
	user := uuid.New()
	devices := make([]*model, count)
	byID := make(map[uuid.UUID]*model, count)
	for i := range devices {
		devices[i] = &model{hb: newHeartbeat(0, 1)}
		devices[i].hb.User = user
		byID[devices[i].hb.Device] = devices[i]
	}
	for range steps {
		for range rng.IntN(burst) {
			m := devices[rng.IntN(len(devices))]
			m.hb.Seq++
			m.hb.TTLMS = uint64(unit * (1 + rng.IntN(ttls)))
			m.hb.Status = Online
			if rng.IntN(10) == 0 {
				m.hb.Status = Offline
			}
			r.mustAccept(m.hb)
			m.online, m.deadline = m.hb.Status == Online,
				r.now.Load()+int64(m.hb.TTLMS)*int64(time.Millisecond)
		}
		r.advance(time.Duration(rng.IntN(40)) * time.Millisecond)
		now := r.now.Load()
		records, err := allDevices(r, user)
		if err != nil {
			t.Fatal(err)
		}
		known := 0
		for _, m := range devices {
			if m.hb.Seq > 0 {
				known++
			}
		}
		if len(records) != known {
			t.Fatalf("%d devices are known, want %d", len(records), known)
		}
		for _, rec := range records {
			m := byID[rec.Device]
			early := m.online && now < m.deadline && rec.Status == Offline
			late := (!m.online || now >= m.deadline+tickNanos) && rec.Status == Online
			if early || late {
				t.Fatalf("device %v at %v: status %d, model online %v until %v", rec.Device,
					time.Duration(now), rec.Status, m.online, time.Duration(m.deadline))
			}
		}
	}
	wantSessionsEndOnce(t, r.log)
}

// wantSessionsEndOnce reads the log: an expiry follows a heartbeat that said online, with its seq
// (I4).
func wantSessionsEndOnce(t *testing.T, log *memLog) {
	t.Helper()
	log.mu.Lock()
	defer log.mu.Unlock()
	last := make(map[uuid.UUID]record.State)
	expiries := 0
	for i, rec := range log.records {
		r := record.View(rec)
		s := r.State()
		if s.Expired {
			expiries++
			if before := last[r.Device()]; !before.Online || before.Seq != s.Seq || s.Online {
				t.Fatalf("record %d: an expiry %+v follows %+v", i, s, before)
			}
		}
		last[r.Device()] = s
	}
	t.Logf("%d records, %d expiries", len(log.records), expiries)
}
