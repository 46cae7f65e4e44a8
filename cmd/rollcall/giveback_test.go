package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGivesBackWhenQuiet: a busy server is left alone, a quiet one is not collected again for
// nothing, and what giving back costs bounds how often it is done.
func TestGivesBackWhenQuiet(t *testing.T) {
	var used, cost time.Duration
	var bytes, live uint64
	freed, started, now := 0, 0, time.Unix(1000, 0)
	g := &giveBack{
		cpu:  func() (time.Duration, bool) { return used, true },
		gain: func() (uint64, uint64) { return bytes, live },
		free: func() { freed++; used += cost; bytes = 0 },

		start: func() { started++ },
	}
	look := func(times int, busy float64) {
		for range times {
			now = now.Add(lookEvery)
			used += time.Duration(busy * float64(lookEvery))
			g.look(now)
		}
	}
	expect := func(want int, when string) {
		t.Helper()
		if freed != want {
			t.Fatalf("%s: given back %d times, not %d", when, freed, want)
		}
	}
	bytes, live = 8<<20, 20<<20
	look(10, 0.2)
	expect(0, "busy")
	if started != 0 {
		t.Error("a busy server gave the pages of its start back")
	}
	look(1, 0.01)
	expect(0, "quiet for one look")
	cost = 20 * time.Millisecond
	look(1, 0.01)
	expect(1, "quiet")
	look(10, 0.01)
	expect(1, "nothing to give back")
	bytes = live / 9
	look(10, 0.01)
	expect(1, "little to give back")
	bytes = live / 8
	look(1, 0.01)
	expect(2, "enough to give back")
	bytes = live
	look(4, 0.01) // 20 ms are a 500th of 10 s
	expect(2, "given back a while ago")
	look(1, 0.01)
	expect(3, "given back long ago")
	if started != 1 {
		t.Errorf("the pages of the start were given back %d times", started)
	}
}

// TestMemoryGain: garbage and free memory are to gain, what lives is not.
func TestMemoryGain(t *testing.T) {
	if _, ok := processorTime(); !ok {
		t.Skip("no server runs here")
	}
	gain := memoryGain()
	kept := make([]byte, 64<<20)
	debug.FreeOSMemory()
	before, live := gain()
	if live < 64<<20 || before >= 64<<20 {
		t.Errorf("%d bytes live and %d are to gain, of which 64 MiB are in use", live, before)
	}
	runtime.KeepAlive(kept)
	runtime.GC()
	if after, _ := gain(); after < before+32<<20 {
		t.Errorf("%d bytes are to gain after 64 MiB became garbage, and %d before", after, before)
	}
}
