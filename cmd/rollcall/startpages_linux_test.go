package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// TestCleanMappings: what is released can be read from the file again.
func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00402000 r--p 00000000 fe:00 12 /usr/bin/rollcall
Size:                  8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
00402000-016ec000 r-xp 00002000 fe:00 12 /usr/bin/rollcall
Anonymous:             4 kB
016ec000-02a20000 r--p 012ec000 fe:00 12 /usr/bin/rollcall
Anonymous:             0 kB
02a20000-02a24000 rw-p 02620000 fe:00 12 /usr/bin/rollcall
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 13 /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000001000-7f0000002000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x402000}, {0x16ec000, 0x2a20000}}
	if got := cleanMappings([]byte(smaps), "/usr/bin/rollcall"); !slices.Equal(got, want) {
		t.Errorf("%x, not %x", got, want)
	}
}

// TestReleaseStartPages: the program goes on, with fewer pages.
func TestReleaseStartPages(t *testing.T) {
	before := filePages(t)
	releaseStartPages()
	if after := filePages(t); after >= before {
		t.Errorf("%d kB of files are mapped, before it were %d", after, before)
	}
}

func filePages(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(bytes.TrimSpace(status))
	if m == nil {
		t.Skip("this kernel does not say how much of files is mapped")
	}
	kB, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kB
}
