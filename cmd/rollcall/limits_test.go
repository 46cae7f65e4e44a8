package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"rollcall/server"
)

func TestLimitsFor(t *testing.T) {
	for _, c := range []struct {
		descriptors    uint64
		asked          int
		conns, streams int
	}{
		{1024, 0, 824, 742},
		{1024, 100, 824, 100},
		{1024, 5000, 824, 742},
		{20000, 0, 19800, 17820},
		{100, 0, 1, 1},
		{1 << 30, 0, 1<<20 - 200, 943539},
		{1 << 30, 2_000_000, 2222222, 2_000_000},
		{1 << 63, 0, 1<<20 - 200, 943539},
	} {
		if l := limitsFor(c.descriptors, c.asked); l.conns != c.conns || l.streams != c.streams {
			t.Errorf("%d descriptors, %d streams asked for: %+v, want %d and %d", c.descriptors,
				c.asked, l, c.conns, c.streams)
		}
	}
	for _, streams := range []int{2, 9, 10, 741, 742, 743, 17820, 1_000_000, 7_654_321} {
		need := descriptorsFor(streams)
		if l := limitsFor(need, streams); l.streams != streams {
			t.Errorf("%d descriptors are said to do for %d streams, and permit %d", need, streams,
				l.streams)
		}
		if l := limitsFor(need-1, streams); l.streams >= streams {
			t.Errorf("%d descriptors are said to be needed for %d streams, but %d would do", need,
				streams, need-1)
		}
	}
}

// TestOperatorsLeaveTheLogItsDescriptors: a flood on the admin listener takes less than half of
// those that are kept from the clients.
func TestOperatorsLeaveTheLogItsDescriptors(t *testing.T) {
	if server.AdminConns > reservedDescriptors/2 {
		t.Errorf("operators may take %d of %d descriptors", server.AdminConns, reservedDescriptors)
	}
}

// TestLimitsAreLogged: what is permitted, and the very command when it is less than asked for.
func TestLimitsAreLogged(t *testing.T) {
	logged := func(descriptors uint64, asked, queue int) string {
		var text bytes.Buffer
		limitsFor(descriptors, asked).log(slog.New(slog.NewTextHandler(&text, nil)), asked, queue)
		return text.String()
	}
	if text := logged(20000, 0, 4096); strings.Contains(text, "WARN") ||
		!strings.Contains(text, "max_streams=17820") {
		t.Errorf("all is as asked for, and the log says\n%s", text)
	}
	text := logged(20000, 50_000, 128)
	for _, want := range []string{"asked=50000 permitted=17820",
		fmt.Sprintf("ulimit -n %d", descriptorsFor(50_000)),
		fmt.Sprintf("LimitNOFILE=%d", descriptorsFor(50_000)),
		"sysctl -w net.core.somaxconn=4096"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q:\n%s", want, text)
		}
	}
}
