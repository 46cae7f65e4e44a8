package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/internal/testseed"
	"rollcall/record"
)

// TestGoldenValue fixes the bytes of a value of a checkpoint, in a store and in the log of a
// cluster's partition: LSN, record, the user's last turn (docs/wal-format.md).
func TestGoldenValue(t *testing.T) {
	user, device := uuid.UUID{0: 1, 15: 1}, uuid.UUID{15: 2}
	state := table.State{LSN: 258, State: record.State{
		Seq: 3, Online: true, SentAtMS: 4, HeartbeatAtMS: 4, TTLMS: 5, UpdatedAtMS: 6, SeenAtMS: 6,
	}}
	turn := lastTurn{lsn: 7, changedAtMS: 8, seenAtMS: 9}
	value := appendValue(nil, user, device, &state, "tv", &table.Aggregate{
		TurnLSN: turn.lsn, ChangedAtMS: turn.changedAtMS, SeenAtMS: turn.seenAtMS,
	})
	const want = "0201000000000000" +
		"01010201" + "01000000000000000000000000000001" + "00000000000000000000000000000002" +
		"0300000000000000" + "0400000000000000" + "0400000000000000" + "0500000000000000" +
		"0600000000000000" + "7476" +
		"0700000000000000" + "0800000000000000" + "0900000000000000"
	if got := hex.EncodeToString(value); got != want {
		t.Fatalf("a value is\n%s, not\n%s", got, want)
	}
	lsn, rec, read, err := cutValue(value)
	if err != nil || lsn != 258 || read != turn || rec.User() != user || rec.Device() != device {
		t.Errorf("it is read as LSN %d, %x, %+v, %v", lsn, rec, read, err)
	}
}

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
