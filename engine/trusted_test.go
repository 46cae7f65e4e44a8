package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	day   = 24 * time.Hour
	month = 30 * day
)

// setWall moves the wall clock of an engine, and not its monotonic one, from now on.
func (d *disk) setWall(by time.Duration) {
	real := d.clock
	d.clock = func() Instant {
		i := real()
		i.WallMS = uint64(int64(i.WallMS) + by.Milliseconds())
		return i
	}
}

// offline makes a device that went offline now.
func (d *disk) offline(t *testing.T) *Heartbeat {
	t.Helper()
	hb := newHeartbeat(1, 60_000)
	hb.Status = Offline
	if res := d.Heartbeat(hb); res.Outcome != Accepted {
		t.Fatalf("%+v", res)
	}
	return hb
}

// run lets time pass, with a checkpoint each hour, and returns how many devices are known then.
func (d *disk) run(t *testing.T, for_ time.Duration) int {
	t.Helper()
	for ; for_ > 0; for_ -= time.Hour {
		d.now.Add(int64(time.Hour))
		d.checkpoint(t)
	}
	return d.table.Len()
}

// TestWallClockJumpForgetsNothing: neither when the clock jumps by months while the server runs,
// nor when it has between two runs, which looks like a server that was off for so long. That one
// catches up while it runs.
func TestWallClockJumpForgetsNothing(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, 1)
	d.offline(t)
	d.checkpoint(t)
	d.setWall(3 * month)
	d.checkpoint(t)
	if n := d.run(t, day); n != 1 {
		t.Fatal("it was forgotten when the clock jumped")
	}
	stopped := d.now.Load()
	d.shut()

	for range 3 { // it is off for months each time
		stopped += int64(2 * month)
		d = openDisk(t, fs, Options{}, stopped)
		if n := d.run(t, day); n != 1 {
			t.Fatal("it was forgotten after a start")
		}
		stopped = d.now.Load()
		d.shut()
	}
	d = openDisk(t, fs, Options{}, stopped)
	defer d.shut()
	// Four days of running were eight of the clock. Eleven more days are 22.
	if n := d.run(t, 10*day); n != 1 {
		t.Error("it was forgotten when half of the time to forget had not passed")
	}
	if n := d.run(t, 2*day); n != 0 {
		t.Error("it is not forgotten when the clock has caught up")
	}
}

// TestWallClockBehindForgetsNothing: a clock that jumps back, and forth again.
func TestWallClockBehindForgetsNothing(t *testing.T) {
	d := openDisk(t, vfs.NewCrashableMem(), Options{}, int64(12*month))
	defer d.shut()
	d.offline(t)
	d.checkpoint(t)
	d.setWall(-6 * month)
	if n := d.run(t, day); n != 1 {
		t.Fatal("it was forgotten when the clock jumped back")
	}
	d.setWall(6 * month)
	if n := d.run(t, 28*day); n != 1 {
		t.Error("it was forgotten before its time when the clock was right again")
	}
}

// TestForgettingWithoutAKnownClock: a store that kept no clock is as old as the last change that it
// has seen.
func TestForgettingWithoutAKnownClock(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{})
	hb := newHeartbeat(1, 60_000)
	hb.Status = Offline
	r.mustAccept(hb)
	again := newRig(t, &memLog{records: log.records}, Options{Store: &memStore{}})
	again.now.Store(int64(2 * month))
	if err := again.recovery.recover(again.clock()); err != nil {
		t.Fatal(err)
	}
	if got := again.checkpoints.trusted.look(again.clock()); got != wallZero {
		t.Errorf("the clock is at %s, want %s", wallTime(got), wallTime(wallZero))
	}
}

// TestWallClockJumpIsLogged once, with both times; as is a start with a clock that is behind the
// last checkpoint's, or so far ahead that it would forget.
func TestWallClockJumpIsLogged(t *testing.T) {
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&text, nil))
	var j jumps
	look := func(nanos, wall time.Duration) int {
		j.look(Instant{Nanos: int64(nanos), WallMS: wallZero + uint64(wall.Milliseconds())}, logger)
		return strings.Count(text.String(), "jumped")
	}
	for _, step := range []struct {
		nanos, wall time.Duration
		logged      int
	}{
		{1, month, 0}, {day, month + day, 0}, {2 * day, month + 2*day + time.Minute, 0},
		{2*day + 1, 2 * month, 1}, {3 * day, 2*month + day, 1}, {4 * day, month, 2},
	} {
		if n := look(step.nanos, step.wall); n != step.logged {
			t.Fatalf("%v at %v: logged %d times, want %d\n%s", step.wall, step.nanos, n, step.logged,
				&text)
		}
	}
	if want := "expected=2023-12-16T22:14:20Z wall=2024-01-13T22:13:20Z"; !strings.Contains(
		text.String(), want) {
		t.Errorf("logged\n%swant %q", &text, want)
	}

	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, int64(3*month))
	d.offline(t)
	d.checkpoint(t)
	d.shut()
	for nanos, want := range map[time.Duration]string{
		month: "is behind", 7 * month: "is far ahead", 3*month + day: "",
	} {
		text.Reset()
		d := openDisk(t, fs, Options{}, int64(nanos))
		d.checkpoints.logger = logger
		if err := d.checkpoints.trust(d.clock()); err != nil {
			t.Fatal(err)
		}
		if got := text.String(); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("a start after %v logs %q, want %q", nanos, got, want)
		}
		d.shut()
	}
}
