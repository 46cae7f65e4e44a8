package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/google/uuid"
	"github.com/puzpuzpuz/xsync/v4"

	"rollcall/engine"
	"rollcall/engine/table"
)

// devices is a structure that holds the state of every device.
type devices interface {
	// insert makes a device known with seq 1.
	insert(n uint64)
	// heartbeat looks the device up, checks the seq and stores all that a heartbeat changes.
	heartbeat(n, seq uint64) bool
	// outside is what it takes outside the Go heap.
	outside() int64
	close()
}

// grouper takes heartbeats in groups, as the batch route hands them to the table.
type grouper interface {
	heartbeats(ns []uint64, seq uint64) bool
}

// BenchmarkTable is one heartbeat of a device picked at random. The goroutines' devices differ, so
// that none waits for another. by=rollcall-group is the same in the groups of the batch route.
// by=ceiling is a random read-modify-write in an array of entries of the same size, mapped in the
// same way.
func BenchmarkTable(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		for _, s := range []struct {
			by   string
			make func(size int) devices
		}{
			{"rollcall", newRollcallTable},
			{"rollcall-group", newRollcallGroups},
			{"sync.Map", func(int) devices { return &syncMap{} }},
			{"xsync.Map", func(int) devices { return xsyncMap{xsync.NewMap[pair, *boxed]()} }},
			{"sharded-map", newShardedMap},
			{"ceiling", newBareArray},
		} {
			b.Run("by="+s.by, func(b *testing.B) { benchTable(b, size, s.make) })
		}
	})
}

func benchTable(b *testing.B, size int, make func(int) devices) {
	before := heapBytes()
	t := make(size)
	for n := range uint64(size) {
		t.insert(n)
	}
	onHeap := heapBytes() - before
	held := t.outside() + onHeap
	collection := collectionCPU()
	seq := uint64(1)
	for _, procs := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			base := seq
			seq += uint64(b.N)
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for proc := range procs {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(proc), base))
					pick := func() uint64 {
						return rng.Uint64N(uint64(size/procs))*uint64(procs) +
							uint64(proc)
					}
					if !heartbeats(t, pick, share(b.N, procs, proc), base+1) {
						b.Error("a heartbeat was refused")
					}
				})
			}
			wg.Wait()
			if procs > 1 {
				return
			}
			b.ReportMetric(float64(held)/float64(size), "B/device")
			b.ReportMetric(float64(onHeap)/float64(size), "heap-B/device")
			b.ReportMetric(float64(collection.Microseconds())/1000, "gc-ms")
		})
		if procs == runtime.GOMAXPROCS(0) {
			break // there is one processor
		}
	}
	t.close()
}

// heartbeats makes so many of them, with seqs that begin at one.
func heartbeats(t devices, pick func() uint64, count int, seq uint64) bool {
	g, ok := t.(grouper)
	if !ok {
		for ; count > 0; count-- {
			if !t.heartbeat(pick(), seq) {
				return false
			}
			seq++
		}
		return true
	}
	var ns [engine.GroupSize]uint64
	for count > 0 {
		group := ns[:min(count, len(ns))]
		for i := range group {
			group[i] = pick()
		}
		if !g.heartbeats(group, seq) {
			return false
		}
		count -= len(group)
		seq += uint64(len(group))
	}
	return true
}

// after is a device's state after a heartbeat.
func after(seq uint64) (s table.State) {
	s.Seq, s.SentAtMS, s.HeartbeatAtMS, s.UpdatedAtMS, s.TTLMS = seq, seq, seq, seq, 12_000
	s.LSN, s.DeadlineNanos, s.Source, s.Online = seq, int64(seq), 1, true
	return s
}

type rollcallTable struct{ *table.Table }

func newRollcallTable(int) devices { return rollcallTable{table.New(table.Options{})} }

func (t rollcallTable) insert(n uint64) {
	u, d := userOf(n), id(n)
	_, e, err := t.FindOrInsert(u, d)
	if err != nil || !e.Claim(u, d) {
		panic(fmt.Sprint("no slot: ", err))
	}
	first := after(1)
	e.Commit(&first)
}

func (t rollcallTable) heartbeat(n, seq uint64) bool {
	u, d := userOf(n), id(n)
	_, e := t.Find(u, d)
	return t.apply(u, d, e, seq)
}

// apply checks the seq twice, as the engine does: before the claim and under it.
func (t rollcallTable) apply(u, d uuid.UUID, e *table.Entry, seq uint64) bool {
	if last, ok := e.LastSeq(); ok && seq <= last {
		return false
	}
	if !e.Claim(u, d) {
		return false
	}
	if seq <= e.Held().Seq {
		e.Unclaim()
		return false
	}
	next := after(seq)
	e.Commit(&next)
	return true
}

func (t rollcallTable) outside() int64 { return t.Stats().SlabBytes }

func (t rollcallTable) close() { t.Close() }

// rollcallGroups looks up a group at once.
type rollcallGroups struct{ rollcallTable }

func newRollcallGroups(int) devices {
	return rollcallGroups{rollcallTable{table.New(table.Options{})}}
}

func (t rollcallGroups) heartbeats(ns []uint64, seq uint64) bool {
	var finds [engine.GroupSize]table.Lookup
	for i, n := range ns {
		finds[i].User, finds[i].Device = userOf(n), id(n)
	}
	t.FindAll(finds[:len(ns)])
	ok := true
	for i := range ns {
		f := &finds[i]
		ok = t.apply(f.User, f.Device, f.Entry, seq+uint64(i)) && ok
	}
	return ok
}

// pair is the key of the maps.
type pair struct{ user, device uuid.UUID }

func pairOf(n uint64) pair { return pair{userOf(n), id(n)} }

// boxed is the value of the maps: changed in place, so that a heartbeat allocates nothing of it.
type boxed struct {
	mu sync.Mutex
	s  table.State // guarded by mu
}

func newBoxed() *boxed { return &boxed{s: after(1)} }

func (e *boxed) heartbeat(seq uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if seq <= e.s.Seq {
		return false
	}
	e.s = after(seq)
	return true
}

type syncMap struct{ m sync.Map }

func (t *syncMap) insert(n uint64) { t.m.Store(pairOf(n), newBoxed()) }

func (t *syncMap) heartbeat(n, seq uint64) bool {
	e, ok := t.m.Load(pairOf(n))
	return ok && e.(*boxed).heartbeat(seq)
}

func (t *syncMap) outside() int64 { return 0 }
func (t *syncMap) close()         {}

type xsyncMap struct{ *xsync.Map[pair, *boxed] }

func (t xsyncMap) insert(n uint64) { t.Store(pairOf(n), newBoxed()) }

func (t xsyncMap) heartbeat(n, seq uint64) bool {
	e, ok := t.Load(pairOf(n))
	return ok && e.heartbeat(seq)
}

func (t xsyncMap) outside() int64 { return 0 }
func (t xsyncMap) close()         {}

// shardedMap is what one writes first: maps behind RWMutexes, chosen by bits of the id.
type shardedMap struct {
	shards [1024]struct {
		sync.RWMutex
		m map[pair]*boxed
		_ [32]byte // one shard's mutex on a cache line of its own
	}
}

func newShardedMap(int) devices {
	t := new(shardedMap)
	for i := range t.shards {
		t.shards[i].m = map[pair]*boxed{}
	}
	return t
}

func (t *shardedMap) insert(n uint64) {
	k := pairOf(n)
	s := &t.shards[binary.LittleEndian.Uint16(k.device[6:])%1024]
	s.Lock()
	s.m[k] = newBoxed()
	s.Unlock()
}

func (t *shardedMap) heartbeat(n, seq uint64) bool {
	k := pairOf(n)
	s := &t.shards[binary.LittleEndian.Uint16(k.device[6:])%1024]
	s.RLock()
	e := s.m[k]
	s.RUnlock()
	return e.heartbeat(seq)
}

func (t *shardedMap) outside() int64 { return 0 }
func (t *shardedMap) close()         {}

// bareArray knows where every device is.
type bareArray struct{ entries []bareEntry }

type bareEntry struct {
	word atomic.Uint64
	_    [unsafe.Sizeof(table.Entry{}) - 8]byte
}

func newBareArray(size int) devices {
	return &bareArray{hugeSlice[bareEntry](size)}
}

func (t *bareArray) insert(n uint64)              { t.entries[n].word.Store(1) }
func (t *bareArray) heartbeat(n, seq uint64) bool { return t.entries[n].word.Add(1) > 1 }
func (t *bareArray) outside() int64 {
	return int64(len(t.entries)) * int64(unsafe.Sizeof(bareEntry{}))
}
func (t *bareArray) close() { freeHuge(t.entries) }
