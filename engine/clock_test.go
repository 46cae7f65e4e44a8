package engine

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestClockReadsBothClocks(t *testing.T) {
	before := time.Now()
	c := NewClock()
	first := c()
	if first.Nanos <= 0 || first.Nanos > int64(time.Since(before))+1 {
		t.Errorf("the first reading is %d ns", first.Nanos)
	}
	if wall := c.Wall(); wall.Before(before.Truncate(time.Millisecond)) || wall.After(time.Now()) {
		t.Errorf("the wall clock says %v", wall)
	}
	if again := c.Nanos(); again < first.Nanos {
		t.Errorf("%d ns after %d ns", again, first.Nanos)
	}
}

// TestClockUntil: loops that wait for multiples of one period wake together.
func TestClockUntil(t *testing.T) {
	now := new(atomic.Int64)
	c := Clock(stillClock(now))
	for at, want := range map[time.Duration]time.Duration{
		1: 99, 99: 1, 100: 100, 101: 99, 12345: 55,
	} {
		now.Store(int64(at))
		if d := c.Until(100); d != want {
			t.Errorf("at %d it is %d until a multiple of 100", at, d)
		}
	}
}

// TestEngineOfAnOldProcess: an engine may be made when the process's clock has run for longer than
// the wheel can look ahead.
func TestEngineOfAnOldProcess(t *testing.T) {
	now := new(atomic.Int64)
	now.Store(int64(300 * 24 * time.Hour))
	log := newMemLog()
	e, err := New(log, Options{Shards: 4, Clock: stillClock(now)})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Engine: e, t: t, log: log, now: now}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	defer r.shut()
	hb := newHeartbeat(1, 1000)
	r.mustAccept(hb)
	r.advance(990 * time.Millisecond)
	r.wantStatus(hb, Online)
	r.advance(20 * time.Millisecond)
	r.wantStatus(hb, Offline)
}
