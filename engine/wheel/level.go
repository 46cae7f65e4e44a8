package wheel

import "math/bits"

const (
	levels     = 3
	bucketBits = 6
	buckets    = 1 << bucketBits // per level; one bit each in a level's occupancy word
	top        = levels - 1
)

// span returns the number of ticks in one bucket of a level: 1, 64, 4096.
func span(level int) uint64 { return 1 << (bucketBits * level) }

// bucketOf returns which bucket of a level a tick belongs to.
func bucketOf(level int, tick uint64) int { return int(tick>>(bucketBits*level)) % buckets }

// place returns where an item for tick is filed while cursor is the next tick to be handed over;
// tick must not be below it.
//
// An item stands in the lowest level on which tick and cursor lie in the same turn, that is in the
// same bucket of the level above: so the occupied buckets of a level below the top are never behind
// the cursor's own. The top level has nothing above it and is a ring. What lies beyond its 63
// buckets ahead waits in the farthest and is filed anew when that fires.
func place(cursor, tick uint64) (level, bucket int) {
	level = (bits.Len64(cursor^tick|1) - 1) / bucketBits
	if level < top {
		return level, bucketOf(level, tick)
	}
	ahead := tick/span(top) - cursor/span(top)
	return top, bucketOf(top, cursor+min(ahead, buckets-1)*span(top))
}

// due returns the first tick of the first occupied bucket of a level, seen from cursor: cursor
// itself for its own bucket, which on the levels above 0 is occupied only between the moment the
// cursor reaches it and the end of its cascade. False: the level is empty.
func due(level int, occupied, cursor uint64) (tick uint64, ok bool) {
	if occupied == 0 {
		return 0, false
	}
	ahead := bits.TrailingZeros64(bits.RotateLeft64(occupied, -bucketOf(level, cursor)))
	if ahead == 0 {
		return cursor, true
	}
	return (cursor/span(level) + uint64(ahead)) * span(level), true
}
