package main

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func failing(err error) memlimit.Provider {
	return func() (uint64, error) { return 0, err }
}

// TestMemoryLimit: the strictest counts, and a system without cgroups has the machine's memory.
func TestMemoryLimit(t *testing.T) {
	const gib = 1 << 30
	unreadable := errors.New("unreadable")
	for name, c := range map[string]struct {
		cgroup, machine memlimit.Provider
		limit           uint64
		source          string
		err             error
	}{
		"cgroup":        {memlimit.Limit(gib), memlimit.Limit(4 * gib), gib, "the cgroup's limit", nil},
		"machine":       {memlimit.Limit(8 * gib), memlimit.Limit(4 * gib), 4 * gib, "the machine's memory", nil},
		"no limit":      {failing(memlimit.ErrNoLimit), memlimit.Limit(gib), gib, "the machine's memory", nil},
		"no cgroup":     {failing(memlimit.ErrNoCgroup), memlimit.Limit(gib), gib, "the machine's memory", nil},
		"no cgroups":    {failing(memlimit.ErrCgroupsNotSupported), memlimit.Limit(gib), gib, "the machine's memory", nil},
		"no proc":       {failing(os.ErrNotExist), memlimit.Limit(gib), gib, "the machine's memory", nil},
		"unreadable":    {failing(unreadable), memlimit.Limit(gib), gib, "the machine's memory", unreadable},
		"cgroup alone":  {memlimit.Limit(gib), failing(memlimit.ErrNoLimit), gib, "the cgroup's limit", nil},
		"neither found": {failing(memlimit.ErrNoCgroup), failing(memlimit.ErrNoLimit), 0, "", nil},
	} {
		m := memoryOf(c.cgroup, c.machine, 0)
		if m.limit != c.limit || m.source != c.source || m.err != c.err {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if m := processMemory(false); m.err != nil {
		t.Errorf("of this process: %+v", m)
	}
}

// TestDevicesThatFit: what they and everything else take at the worst moment is within the limit,
// and an operator's GOMEMLIMIT is left as it is.
func TestDevicesThatFit(t *testing.T) {
	const mib = 1 << 20
	for _, limit := range []uint64{64 * mib, 110 * mib, 512 * mib, 4096 * mib, 64 << 30} {
		m := memory{limit: limit}
		n := uint64(m.devices())
		if need := m.recovery(n) + n*sourceHeapBytes; need > limit {
			t.Errorf("%d MiB: %d devices take %d MiB", limit/mib, n, need/mib)
		}
		if all := n*entryBytes + uint64(m.heapLimit()) + limit/8; all > limit {
			t.Errorf("%d MiB: entries and heap may take %d MiB", limit/mib, all/mib)
		}
		on := n * (deviceHeapBytes + sourceHeapBytes)
		if heap := uint64(m.heapLimit()); heap < on+heapBaseBytes*3/4 {
			t.Errorf("%d MiB: %d devices do not fit into a heap of %d MiB", limit/mib, n, heap/mib)
		}
	}
	for name, c := range map[string]struct {
		m       memory
		devices int
		heap    int64
		origin  string
	}{
		"unknown":      {memory{}, 0, 0, ""},
		"tiny":         {memory{limit: 32 * mib, source: "s"}, leastDevices, heapBaseBytes, "s"},
		"addressable":  {memory{limit: 1 << 45, source: "s"}, mostDevices, 0, "s"},
		"GOMEMLIMIT":   {memory{limit: 4 << 30, source: "s", heap: 104 * mib}, 209192, 0, "GOMEMLIMIT"},
		"a large one":  {memory{limit: 110 * mib, source: "s", heap: 1 << 40}, 98106, 0, "s"},
		"switched off": {memory{limit: 110 * mib, source: "s", heap: math.MaxInt64}, 98106, 0, "s"},
		"a node":       {memory{limit: 1 << 30, source: "s", clustered: true}, 721555, 775819712, "s"},
		"heap alone":   {memory{heap: 104 * mib}, 209192, 0, "GOMEMLIMIT"},
	} {
		if n := c.m.devices(); n != c.devices {
			t.Errorf("%s: %d devices, want %d", name, n, c.devices)
		}
		if n := c.m.heapLimit(); n != c.heap && name != "addressable" {
			t.Errorf("%s: a heap of %d, want %d", name, n, c.heap)
		}
		if origin := c.m.origin(); origin != c.origin {
			t.Errorf("%s: from %q, want %q", name, origin, c.origin)
		}
		if n := c.m.maxDevices(7); n != 7 {
			t.Errorf("%s: 7 are asked for and %d may be", name, n)
		}
	}
}

// TestMemoryIsLogged: the limit with where it was found and how many devices fit, and what is
// wrong.
func TestMemoryIsLogged(t *testing.T) {
	logged := func(say func(*slog.Logger)) string {
		var text bytes.Buffer
		say(slog.New(slog.NewTextHandler(&text, nil)))
		return text.String()
	}
	m := memory{limit: 110 << 20, source: "the cgroup's limit"}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"default": {logged(func(l *slog.Logger) { m.log(l, 0) }), []string{"level=INFO msg=memory",
			`limit_bytes=115343360 from="the cgroup's limit" devices_fit=98106 max_devices=98106`}},
		"too many asked for": {logged(func(l *slog.Logger) { m.log(l, 1_000_000) }), []string{
			"level=WARN", "permits more devices than fit if each has a source of its own", "max_devices=1000000 devices_fit=98106"}},
		"too little": {logged(func(l *slog.Logger) { memory{limit: 1 << 20}.log(l, 0) }),
			[]string{"below what the server takes", "needs_bytes=50331648"}},
		"unreadable": {logged(func(l *slog.Logger) { memory{err: errors.New("odd")}.log(l, 0) }),
			[]string{"cannot be read", "error=odd"}},
		"recovery": {logged(func(l *slog.Logger) { m.warnRecovery(l, 1_000_000) }),
			[]string{"level=ERROR", "needs_bytes=327331648 limit_bytes=115343360",
				`remedy="raise the memory limit above 313 MiB"`}},
	} {
		for _, want := range c.want {
			if !strings.Contains(c.text, want) {
				t.Errorf("%s: the log does not say %q:\n%s", name, want, c.text)
			}
		}
	}
	if text := logged(func(l *slog.Logger) {
		m.warnRecovery(l, 100)
		memory{}.log(l, 0)
		memory{}.warnRecovery(l, 1<<40)
	}); text != "" {
		t.Errorf("all is well, and the log says\n%s", text)
	}
}
