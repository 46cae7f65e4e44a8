package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	lookEvery = 2 * time.Second
	// quietLooks is for how many looks in a row the process has done next to nothing.
	quietLooks = 2
	// quietShare is the part of one processor that the process may use and be quiet.
	quietShare = 0.05
	// giveBackShare is the part of one processor that giving back may use, on average.
	giveBackShare = 0.002
	// leastGain is worth it, and so is an eighth of what lives where that is more.
	leastGain = 1 << 20
)

// giveBack gives memory back to the system while the server is quiet: what a crowd of connects, a
// recovery or a scrape left behind. By itself Go collects garbage when as much again was allocated,
// or two minutes have passed, and keeps what it frees for an hour like the last: a server of idle
// streams, which allocate nothing, would keep twice what they need. A busy server is left alone.
// Single owner: its goroutine.
type giveBack struct {
	cpu  func() (time.Duration, bool) // that the process has used; false: not known
	gain func() (bytes, live uint64)  // what a collection and a return would bring, at most
	free func()
	// start gives back the pages of the start, once; nil: it was done.
	start func()

	looked time.Time     // when
	used   time.Duration // of processors, by then
	quiet  int           // looks in a row
	next   time.Time     // not before
}

// startGiveBack looks every so often, until stop is called.
func startGiveBack() (stop func()) {
	g := &giveBack{cpu: processorTime, gain: memoryGain(), free: debug.FreeOSMemory,
		start: releaseStartPages}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				g.look(now)
			case <-ended:
				return
			}
		}
	}()
	return func() { close(ended); <-done }
}

// look gives back what is worth it when the process is quiet.
func (g *giveBack) look(now time.Time) {
	used, ok := g.cpu()
	if !ok {
		return
	}
	passed := now.Sub(g.looked)
	if g.looked.IsZero() || float64(used-g.used) > quietShare*float64(passed) {
		g.quiet = 0
	} else {
		g.quiet++
	}
	g.looked, g.used = now, used
	if g.quiet > 0 && g.start != nil {
		g.start()
		g.start = nil
	}
	if g.quiet < quietLooks || now.Before(g.next) {
		return
	}
	if bytes, live := g.gain(); bytes < max(leastGain, live/8) {
		return
	}
	g.free()
	after, _ := g.cpu()
	g.next = now.Add(time.Duration(float64(after-used) / giveBackShare))
	g.used = after
}

// memoryGain returns what the heap has beside what lived at the last collection: garbage, and free
// memory that the system does not have.
func memoryGain() func() (bytes, live uint64) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	return func() (bytes, live uint64) {
		metrics.Read(samples)
		live = samples[0].Value.Uint64()
		return above(samples[1].Value.Uint64(), live) + samples[2].Value.Uint64(), live
	}
}
