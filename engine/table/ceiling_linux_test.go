//go:build linux && !race

package table

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkGroup is the table's part of a heartbeat in the groups of the batch route, of devices
// picked at random, beside its ceiling: a chain of two misses in memory of the same sizes, a word
// of an index and then the entry that it names, walked in the same groups. The rounds of both
// alternate, and the ratio is the median of theirs, so that a busy machine slows down both. Ten
// million devices take 2 GiB: -short leaves them out.
//
//	go test -run '^$' -bench '^BenchmarkGroup$' -benchtime 1x ./engine/table
func BenchmarkGroup(b *testing.B) {
	for _, devices := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			if testing.Short() && devices > 1_000_000 {
				b.Skip("it takes 2 GiB")
			}
			tab := benchTable(b, devices)
			chain := newChain(b, tab, devices)
			b.ResetTimer()
			var apply, pair, single, ratio []float64
			for b.Loop() {
				for round := range uint64(21) {
					a := perDevice(func(rng *rand.Rand) { tab.groups(rng, devices) }, round)
					p := perDevice(chain.pairs, round)
					s := perDevice(chain.singles, round)
					apply, pair, single = append(apply, a), append(pair, p), append(single, s)
					ratio = append(ratio, a/p)
				}
			}
			for unit, of := range map[string][]float64{
				"ns/apply": apply, "ns/pair": pair, "ns/single": single, "apply/pair": ratio,
			} {
				slices.Sort(of)
				b.ReportMetric(of[len(of)/2], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

const (
	benchGroup  = 32
	benchGroups = 1 << 12 // of a round
)

// perDevice times a round.
func perDevice(run func(*rand.Rand), round uint64) float64 {
	rng := rand.New(rand.NewPCG(round, 7))
	began := time.Now()
	run(rng)
	return float64(time.Since(began).Nanoseconds()) / (benchGroup * benchGroups)
}

// groups applies a round of heartbeats.
func (t *Table) groups(rng *rand.Rand, devices int) {
	var ls [benchGroup]Lookup
	for range benchGroups {
		for i := range ls {
			n := rng.Uint64N(uint64(devices))
			ls[i].User, ls[i].Device = benchID(n/2), benchID(n)
		}
		t.FindAll(ls[:])
		for i := range ls {
			e := ls[i].Entry
			seq, _ := e.LastSeq()
			if !e.Claim(ls[i].User, ls[i].Device) {
				panic("bug: lost")
			}
			s := e.Held()
			s.Seq, s.LSN, s.DeadlineNanos = seq+1, s.LSN+1, int64(seq)
			s.SentAtMS, s.HeartbeatAtMS, s.UpdatedAtMS = seq, seq, seq
			s.TTLMS, s.Online = 12_000, true
			e.Commit(&s)
		}
	}
}

// chain is memory of the sizes of a table's indexes of devices and of its entries, in huge pages.
type chain struct {
	index   []atomic.Uint64
	entries [][entryBytes / 8]atomic.Uint64
}

func newChain(b *testing.B, tab *Table, devices int) *chain {
	words := 0
	for i := range tab.shards {
		words += len(tab.shards[i].devices.Load().words)
	}
	c := &chain{
		index:   hugeSlice[atomic.Uint64](b, words),
		entries: hugeSlice[[entryBytes / 8]atomic.Uint64](b, devices),
	}
	rng := rand.New(rand.NewPCG(1, 7))
	for i := range c.index {
		c.index[i].Store(rng.Uint64N(uint64(devices)))
	}
	for i := range c.entries {
		c.entries[i][0].Store(1)
	}
	return c
}

// hugeSlice is zeroed memory outside the Go heap that asks for huge pages.
func hugeSlice[T any](b *testing.B, n int) []T {
	size := n * int(unsafe.Sizeof(*new(T)))
	const access, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_ANON | unix.MAP_PRIVATE
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), access, kind)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unmap(p, size) })
	adviseHuge(p, size)
	return unsafe.Slice((*T)(p), n)
}

// pairs is a round of two dependent misses each.
func (c *chain) pairs(rng *rand.Rand) {
	var at [benchGroup]uint64
	var slots [benchGroup]uint64
	words := uint64(len(c.index))
	for range benchGroups {
		for i := range at {
			at[i] = rng.Uint64N(words)
		}
		for i := range at {
			slots[i] = c.index[at[i]].Load()
		}
		for i := range slots {
			c.entries[slots[i]][0].Add(1)
		}
	}
}

// singles is a round of one miss each, which depends on nothing.
func (c *chain) singles(rng *rand.Rand) {
	for range benchGroups * benchGroup {
		c.entries[rng.Uint64N(uint64(len(c.entries)))][0].Add(1)
	}
}
