package wal

import (
	"fmt"
	"testing"
)

// TestGateStaysOpenOnAHealthyDisk: a disk that fills segments faster than the log is written, by so
// much as a young log's small segments need, never lets the gate shut, at any size of the current
// segment. The disk is a model: in each step it takes a piece of zeros, or none while the preparer
// rests, and some of the log.
func TestGateStaysOpenOnAHealthyDisk(t *testing.T) {
	for _, share := range []int64{6, 20, 100} { // it fills so many times as fast as the log grows
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			g := &gate{credits: &credits{capacity: defaultBufferBytes}}
			p := &preparer{gate: g, largest: defaultSegmentBytes}
			const first = int64(segmentBuffers * defaultBufferBytes)
			next, unfilled, left := first, first, first-segmentHeaderBytes
			g.addPrepared()
			g.begin(left)
			resting, rests := false, 0
			for segment := 1; segment < 8; {
				if resting {
					resting = false
				} else if unfilled > 0 {
					if unfilled -= fillBytes; unfilled == 0 {
						g.addPrepared()
					}
					if resting = !g.behind(unfilled); resting {
						rests++
					}
				}
				left -= fillBytes / share
				g.write(left)
				if g.shut {
					t.Fatalf("segment %d: the gate is shut, with %d bytes of the next to be filled",
						segment, unfilled)
				}
				if left < fillBytes {
					segment++
					left = next - segmentHeaderBytes
					next = p.next(next)
					unfilled = next
					g.begin(left)
				}
			}
			if rests == 0 {
				t.Error("the preparer never rested")
			}
		})
	}
}
