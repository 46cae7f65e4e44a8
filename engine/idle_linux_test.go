//go:build linux && !race

package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
)

// idleEnv tells a test binary to be the process that TestIdleEngines measures.
const idleEnv = "ROLLCALL_TEST_IDLE_ENGINES"

// idleFigures are what idle engines cost together.
type idleFigures struct {
	ResidentBytes int64
	Cores         float64
}

// TestIdleEngines: 64 engines of one process, each with a few devices, cost at most 32 MiB and 1 %
// of a core together while nothing happens. A process of its own is measured, by what it has
// resident and by the processor's time that it takes, so that neither other tests nor a busy
// machine count.
func TestIdleEngines(t *testing.T) {
	if os.Getenv(idleEnv) != "" {
		printIdle(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestIdleEngines$", "-test.v")
	cmd.Env = append(os.Environ(), idleEnv+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var f idleFigures
	for line := range strings.Lines(string(out)) {
		if json.Unmarshal([]byte(line), &f) == nil {
			break
		}
	}
	t.Logf("64 idle engines: %.1f MiB resident, %.2f %% of a core",
		float64(f.ResidentBytes)/(1<<20), 100*f.Cores)
	if f.ResidentBytes == 0 || f.ResidentBytes > 32<<20 {
		t.Errorf("%d bytes are resident, want 32 MiB at most", f.ResidentBytes)
	}
	if f.Cores == 0 || f.Cores > 0.01 {
		t.Errorf("%.2f %% of a core, want 1 at most", 100*f.Cores)
	}
}

func printIdle(t *testing.T) {
	const engines, devices = 64, 20
	before := resident(t)
	s, b, options := newShared(t, engines)
	ticks := &tickCounter{Events: b, ticked: make(chan struct{}, 1)}
	for i, o := range options {
		o.Events = ticks
		e, err := New(newMemLog(), o)
		if err != nil {
			t.Fatal(err)
		}
		s.engines[i] = e
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		for range devices {
			if r := e.Heartbeat(newHeartbeat(1, 3_600_000)); r.Outcome != Accepted {
				t.Fatalf("%+v", r)
			}
		}
	}
	f := idleFigures{ResidentBytes: resident(t) - before, Cores: 1}
	// Where the machine is busy the caches are cold, and the same work takes longer: the best of
	// some seconds counts.
	for second := 0; second < 20 && (second < 2 || f.Cores > 0.01); second++ {
		began, used := time.Now(), processorTime(t)
		ticks.left.Store(4 * engines)
		testwait.For(t, "a second of ticks", ticks.ticked)
		f.Cores = min(f.Cores, float64(processorTime(t)-used)/float64(time.Since(began)))
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	b.Close()
	s.close()
}

// tickCounter says when it was ticked so many times.
type tickCounter struct {
	Events
	left   atomic.Int64
	ticked chan struct{}
}

func (c *tickCounter) Tick(nowNanos int64) {
	c.Events.Tick(nowNanos)
	if c.left.Add(-1) == 0 {
		c.ticked <- struct{}{}
	}
}

var _ Events = (*broadcast.Broadcaster)(nil)

// resident returns the bytes that this process has resident, without what the collector could give
// back.
func resident(t *testing.T) int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// processorTime returns the time that this process has had processors for.
func processorTime(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
