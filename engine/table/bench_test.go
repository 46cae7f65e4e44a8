package table

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"rollcall/record"
)

// benchID makes ids that look random without a list of them in memory, which would cost cache
// misses of its own.
func benchID(n uint64) (id uuid.UUID) {
	binary.LittleEndian.PutUint64(id[:8], (n+1)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(id[8:], (n+1)*0xd1342543de82ef95)
	return id
}

// benchTable holds devices of half as many users.
func benchTable(b *testing.B, devices int) *Table {
	tab := New(Options{})
	b.Cleanup(tab.Close)
	for n := range uint64(devices) {
		u, d := benchID(n/2), benchID(n)
		_, e, err := tab.FindOrInsert(u, d)
		if err != nil || !e.Claim(u, d) {
			b.Fatal(err)
		}
		e.Commit(&State{State: record.State{Seq: 1}, LSN: 1})
	}
	return tab
}

func eachSize(b *testing.B, run func(b *testing.B, devices int)) {
	for _, devices := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) { run(b, devices) })
	}
}

// BenchmarkHeartbeat is the table's part of a heartbeat of a device picked at random: lookup, check
// of the seq, claim, commit.
func BenchmarkHeartbeat(b *testing.B) {
	eachSize(b, func(b *testing.B, devices int) {
		tab := benchTable(b, devices)
		st := tab.Stats()
		rng := rand.New(rand.NewPCG(1, 2))
		b.ReportAllocs()
		b.ResetTimer()
		for lsn := uint64(2); b.Loop(); lsn++ {
			n := rng.Uint64N(uint64(devices))
			heartbeat(b, tab, benchID(n/2), benchID(n), lsn)
		}
		b.ReportMetric(float64(st.SlabBytes+st.IndexBytes)/float64(devices), "B/device")
		b.ReportMetric(float64(st.IndexBytes)/float64(devices), "index-B/device")
	})
}

// BenchmarkHeartbeatParallel has several goroutines heartbeat.
func BenchmarkHeartbeatParallel(b *testing.B) {
	eachSize(b, func(b *testing.B, devices int) {
		tab := benchTable(b, devices)
		var lsn, seed atomic.Uint64
		lsn.Store(1)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			rng := rand.New(rand.NewPCG(seed.Add(1), 2))
			for pb.Next() {
				n := rng.Uint64N(uint64(devices))
				u, d := benchID(n/2), benchID(n)
				_, e := tab.Find(u, d)
				if !e.Claim(u, d) {
					b.Error("lost")
					return
				}
				s := e.Held()
				s.Seq++
				s.LSN = max(s.LSN+1, n)
				e.Commit(&s)
			}
		})
	})
}

func heartbeat(b *testing.B, tab *Table, u, d uuid.UUID, lsn uint64) {
	_, e := tab.Find(u, d)
	if seq, ok := e.LastSeq(); ok && lsn <= seq {
		b.Fatal("stale")
	}
	if !e.Claim(u, d) {
		b.Fatal("lost")
	}
	s := e.Held()
	s.Seq, s.LSN, s.DeadlineNanos = lsn, lsn, int64(lsn)
	s.SentAtMS, s.HeartbeatAtMS, s.UpdatedAtMS = lsn, lsn, lsn
	s.TTLMS, s.Online = 12_000, true
	e.Commit(&s)
}

// BenchmarkStale is what a heartbeat costs that is refused.
func BenchmarkStale(b *testing.B) {
	eachSize(b, func(b *testing.B, devices int) {
		tab := benchTable(b, devices)
		rng := rand.New(rand.NewPCG(1, 2))
		for b.Loop() {
			n := rng.Uint64N(uint64(devices))
			u, d := benchID(n/2), benchID(n)
			_, e := tab.Find(u, d)
			if seq, _ := e.LastSeq(); seq != 1 || !e.Is(u, d) {
				b.Fatal("not stale")
			}
		}
	})
}

// BenchmarkDevices is the walk of a stream's connect.
func BenchmarkDevices(b *testing.B) {
	eachSize(b, func(b *testing.B, devices int) {
		tab := benchTable(b, devices)
		rng := rand.New(rand.NewPCG(1, 2))
		var refs []Ref
		for b.Loop() {
			told := 0
			refs = tab.Devices(benchID(rng.Uint64N(uint64(devices/2))), refs[:0])
			for _, r := range refs {
				if _, _, _, ok := tab.Entry(r).Read(); ok {
					told++
				}
			}
			if told != 2 {
				b.Fatal("not two devices")
			}
		}
	})
}

// BenchmarkFirstSight inserts new devices, growth included.
func BenchmarkFirstSight(b *testing.B) {
	tab := New(Options{})
	defer tab.Close()
	n := uint64(0)
	for b.Loop() {
		if _, _, err := tab.FindOrInsert(benchID(n/2), benchID(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func BenchmarkHash(b *testing.B) {
	tab := New(Options{})
	defer tab.Close()
	u, d := benchID(1), benchID(2)
	sum := uint64(0)
	for b.Loop() {
		k := tab.key(u, d)
		sum += k.userHash + k.deviceHash
		u[0]++
	}
	if sum == 0 {
		b.Log(sum)
	}
}
