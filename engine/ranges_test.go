package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"rollcall/internal/testseed"
)

// TestSortKeys: items come into the order of their keys although a sort of many rests in between,
// in one shard or in several.
func TestSortKeys(t *testing.T) {
	rng := testseed.Rand(t)
	for _, shards := range []int{1, 4, 64} {
		t.Run(fmt.Sprintf("shards=%d", shards), func(t *testing.T) {
			b := shuffled(rng, 10*paceCompares, shards)
			want := slices.Clone(b.items)
			slices.SortFunc(want,
				func(x, y rangeItem) int { return bytes.Compare(b.key(x), b.key(y)) })
			b.sortKeys(shards)
			if !slices.Equal(b.items, want) {
				t.Error("not in order")
			}
		})
	}
}

// shuffled are n items as collect leaves them: one shard after the other, in no order within.
func shuffled(rng *rand.Rand, n, shards int) *rangeBuffer {
	b := &rangeBuffer{pace: pace{began: time.Now()}}
	for i := range n {
		hash := uint64(i*shards/n)<<48*(1<<16/uint64(shards)) + rng.Uint64N(1<<48)
		at := len(b.bytes)
		b.bytes = binary.BigEndian.AppendUint16(b.bytes, uint16(hash>>48))
		for range keyBytes - 2 {
			b.bytes = append(b.bytes, byte(rng.Uint32()))
		}
		b.items = append(b.items, rangeItem{at, len(b.bytes)})
	}
	return b
}
