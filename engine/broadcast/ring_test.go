package broadcast

import "testing"

// TestRingFilesAnewWithoutGarbage: idle streams are filed at each keepalive, for as long as they
// are open.
func TestRingFilesAnewWithoutGarbage(t *testing.T) {
	const streams, ahead = 5000, 60
	var r ring
	r.start(0)
	now := uint32(0)
	for slot := range uint32(streams) {
		r.add(slot, r.clip(1+slot%ahead))
	}
	round := func() {
		for range ahead {
			now++
			for slot, _, ok := r.next(now); ok; slot, _, ok = r.next(now) {
				r.add(slot, r.clip(now+ahead))
			}
		}
	}
	if got := testing.AllocsPerRun(10, round); got != 0 {
		t.Errorf("%d streams of a ring leave %v allocations in a round", streams, got)
	}
	seen := make(map[uint32]bool)
	for range ahead {
		now++
		for slot, _, ok := r.next(now); ok; slot, _, ok = r.next(now) {
			seen[slot] = true
		}
	}
	if len(seen) != streams || r.used != 0 || r.spares > 1 {
		t.Errorf("%d streams of %d came out, and %d and %d pieces are left",
			len(seen), streams, r.used, r.spares)
	}
}
