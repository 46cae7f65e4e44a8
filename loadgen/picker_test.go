package loadgen

import (
	"testing"

	"rollcall/internal/testseed"
)

// TestRoundIsAnOrder: every number below n once, whatever n.
func TestRoundIsAnOrder(t *testing.T) {
	rng := testseed.Rand(t)
	for _, n := range []uint32{1, 2, 3, 7, 8, 9, 1000, 1024, 1025, 65_537} {
		r, seen := newRound(n, rng), make([]bool, n)
		same := 0
		other := newRound(n, rng)
		for i := range n {
			d := r.at(i)
			if d >= n || seen[d] {
				t.Fatalf("n=%d: %d stands twice, or is none", n, d)
			}
			seen[d] = true
			if d == other.at(i) {
				same++
			}
		}
		if n >= 1000 && same > int(n)/10 {
			t.Errorf("n=%d: %d places are the same in two rounds", n, same)
		}
	}
}
