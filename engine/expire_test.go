package engine

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
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

// TestExpiryAgainstModel drives random heartbeats and time against a plain model of the contract.
func TestExpiryAgainstModel(t *testing.T) {
	rng := testseed.Rand(t)
	r := startRig(t, newMemLog(), Options{})
	type model struct {
		hb       *Heartbeat
		online   bool
		deadline int64
	}
	user := uuid.New()
	devices := make([]*model, 50)
	for i := range devices {
		devices[i] = &model{hb: newHeartbeat(0, 1)}
		devices[i].hb.User = user
	}
	for range 2000 {
		for range rng.IntN(4) {
			m := devices[rng.IntN(len(devices))]
			m.hb.Seq++
			m.hb.TTLMS = uint64(1 + rng.IntN(3000))
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
		for i, m := range devices {
			if m.hb.Seq == 0 {
				continue
			}
			rec, ok := r.device(user, m.hb.Device)
			early := ok && m.online && now < m.deadline && rec.Status == Offline
			late := ok && (!m.online || now >= m.deadline+tickNanos) && rec.Status == Online
			if !ok || early || late {
				t.Fatalf("device %d at %v: status %d, model online %v until %v", i,
					time.Duration(now), rec.Status, m.online, time.Duration(m.deadline))
			}
		}
	}
}
