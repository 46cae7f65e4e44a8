package wal

import (
	"sync"
	"sync/atomic"
)

// gate refuses new credits while no segment is prepared and the current one is nearly full, so that
// what was already appended, or has its credit, still fits. The preparer and the writer report to
// it; any goroutine may ask.
type gate struct {
	credits *credits

	mu       sync.Mutex
	prepared int   // guarded by mu: segments handed to the writer, or about to be
	begun    int   // guarded by mu: of these, how many it began
	left     int64 // guarded by mu: bytes left in the current segment
	shut     bool  // guarded by mu: biasGated is in the credit word

	noSpace atomic.Bool // the last attempt to prepare a segment failed. Single writer: preparer
}

// addPrepared counts a segment that can be begun.
func (g *gate) addPrepared() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.prepared++
	g.updateLocked()
}

// begin takes a prepared segment into account as the current one.
func (g *gate) begin(left int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun++
	g.left = left
	g.updateLocked()
}

// write takes into account what is left in the current segment.
func (g *gate) write(left int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = left
	g.updateLocked()
}

// updateLocked compares the room with what can still come before the gate is looked at again: one
// full buffer that is being written while another fills, and the blocks around them (half a buffer:
// enough even when each record of 80 bytes becomes a block of its own).
func (g *gate) updateLocked() {
	shut := g.prepared == g.begun && g.left < g.need()
	if shut == g.shut {
		return
	}
	g.shut = shut
	if shut {
		g.credits.refuse(biasGated)
		return
	}
	g.credits.allow(biasGated)
	g.credits.wake()
}

// fullError says why a credit could not be had in time.
func (g *gate) fullError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut && g.noSpace.Load() {
		return ErrNoSpace
	}
	return ErrFull
}

// need is the room that the current segment must have for the gate to be open while none is
// prepared.
func (g *gate) need() int64 { return 2*g.credits.capacity + g.credits.capacity/2 }

// behind reports whether the next segment, of whose bytes so many are still to be filled, would not
// be ready in time if the log went on as fast as the disk fills it: the gate would shut. Two
// buffers are spare.
func (g *gate) behind(unfilled int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return unfilled+2*g.credits.capacity > g.left-g.need()
}

// roomLeft returns the bytes left in the current segment.
func (g *gate) roomLeft() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}
