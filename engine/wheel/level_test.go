package wheel

import (
	"fmt"
	"testing"
)

// cursors are the next ticks from which the arithmetic is tried: around every boundary of every
// level, with the upper bits clear, set and about to overflow into 33 bits.
func cursors() (all []uint64) {
	for _, base := range []uint64{0, 1 << 18, 5<<18 | 3<<12 | 9<<6, 1<<32 - 1<<18, 1<<32 - 1<<12,
		1<<40 - 64} {
		for _, at := range []uint64{0, 1, 63, 64, 65, 127, 128, 4032, 4095, 4096, 4097, 8191,
			1<<18 - 65, 1<<18 - 64, 1<<18 - 1} {
			all = append(all, base+at)
		}
	}
	return all
}

// TestPlaceEveryTick tries every distance that the levels tell apart, from every kind of cursor:
// the bucket must come due no later than the tick, and not before everything that is closer (H3).
func TestPlaceEveryTick(t *testing.T) {
	for _, cursor := range cursors() {
		var last uint64
		for tick := cursor; tick < cursor+1<<18+1<<12; tick++ {
			level, bucket := place(cursor, tick)
			at, ok := due(level, 1<<bucket, cursor)
			if err := checkPlace(cursor, tick, level, at); !ok || err != nil {
				t.Fatalf("cursor %d, tick %d: level %d, bucket %d, due %d (%v): %v", cursor, tick,
					level, bucket, at, ok, err)
			}
			if at < last {
				t.Fatalf("cursor %d: tick %d is due at %d, a tick before it at %d", cursor, tick,
					at, last)
			}
			last = at
			if testing.Short() {
				tick += 6
			}
		}
	}
}

func checkPlace(cursor, tick uint64, level int, at uint64) error {
	switch {
	case level == 0 && at != tick:
		return fmt.Errorf("level 0 is not the tick itself")
	case level > 0 && at%span(level) != 0:
		return fmt.Errorf("a bucket begins at no boundary")
	case level > 0 && at <= cursor:
		return fmt.Errorf("the cursor's own bucket")
	case at > tick:
		return fmt.Errorf("late")
	case level > 0 && tick-at >= span(level) && tick-cursor < 63*span(top):
		return fmt.Errorf("the tick is not in its bucket")
	}
	return nil
}

// TestLowestLevelServes says which level a tick is filed in: the lowest one whose turn both share.
func TestLowestLevelServes(t *testing.T) {
	for _, c := range []struct {
		cursor, tick  uint64
		level, bucket int
	}{
		{1, 1, 0, 1},
		{1, 63, 0, 63},
		{1, 64, 1, 1},
		{63, 64, 1, 1},
		{64, 64, 0, 0},
		{1, 4095, 1, 63},
		{1, 4096, 2, 1},
		{4095, 4096, 2, 1},
		{4096, 4096, 0, 0},
		{1, 1<<18 - 1, 2, 63},
		{4096, 1 << 18, 2, 0},         // the ring goes round
		{1, 1 << 18, 2, 63},           // one bucket too far: waits in the farthest
		{1, 1 << 30, 2, 63},           // as does anything beyond
		{1<<18 - 1, 1 << 18, 2, 0},    // the next bucket
		{1 << 18, 1<<18 + 4096, 2, 1}, // another turn of the ring
	} {
		if level, bucket := place(c.cursor, c.tick); level != c.level || bucket != c.bucket {
			t.Errorf("place(%d, %d): level %d, bucket %d; want %d, %d", c.cursor, c.tick, level,
				bucket, c.level, c.bucket)
		}
	}
}

// TestDueEveryBucket tries every pair of an occupied bucket and a cursor's bucket, on every level,
// alone and with a farther one.
func TestDueEveryBucket(t *testing.T) {
	for level := range levels {
		for own := range uint64(buckets) {
			cursor := (7*buckets+own)*span(level) + span(level)/2
			for ahead := range uint64(buckets) {
				b, farthest := (own+ahead)%buckets, (own+buckets-1)%buckets
				want := cursor
				if ahead > 0 {
					want = (7*buckets + own + ahead) * span(level)
				}
				for _, occupied := range []uint64{1 << b, 1<<b | 1<<farthest} {
					if tick, ok := due(level, occupied, cursor); !ok || tick != want {
						t.Fatalf("level %d, cursor %d, occupied %b: due %d, want %d", level, cursor,
							occupied, tick, want)
					}
				}
			}
		}
		if _, ok := due(level, 0, 12345); ok {
			t.Errorf("level %d: an empty level is due", level)
		}
	}
}
