package engine

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/wire"
)

// noLog is a Log that keeps nothing, so that a benchmark shows what the engine does.
type noLog struct {
	memLog
	last atomic.Uint64
}

func (l *noLog) Reserve(int, time.Duration) error { return nil }
func (l *noLog) Release(int)                      {}
func (l *noLog) Append(_ []byte, _ int64) uint64  { return l.last.Add(1) }
func (l *noLog) Wait(uint64) error                { return nil }
func (l *noLog) Vouch(uint64) error               { return nil }
func (l *noLog) Committed() uint64                { return l.last.Load() }
func (l *noLog) Appended() uint64                 { return l.last.Load() }

// benchID is an id that looks random.
func benchID(n uint64) (id uuid.UUID) {
	binary.LittleEndian.PutUint64(id[:8], (n+1)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(id[8:], (n+1)*0xd1342543de82ef95)
	return id
}

// benchEngine holds devices that are online, of half as many users.
func benchEngine(b *testing.B, devices int) *Engine {
	e, err := New(new(noLog), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	hb := benchHeartbeat(0, 1)
	for n := range uint64(devices) {
		hb.User, hb.Device = benchID(n/2), benchID(n)
		if r := e.Heartbeat(&hb); r.Outcome != Accepted {
			b.Fatal(r)
		}
	}
	return e
}

func benchHeartbeat(n, seq uint64) Heartbeat {
	return Heartbeat{Heartbeat: wire.Heartbeat{
		User: benchID(n / 2), Device: benchID(n), Status: Online, Source: []byte("daemon-do"),
		SentAtMS: 1_700_000_000_000, Seq: seq, TTLMS: 12_000,
	}}
}

// BenchmarkGroup is what the engine does for a heartbeat of a device picked at random that is
// online and stays so, in groups as a loop or a batch applies them.
func BenchmarkGroup(b *testing.B) {
	for _, devices := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			g := benchEngine(b, devices).NewGroup()
			rng := rand.New(rand.NewPCG(1, 2))
			hbs := make([]Heartbeat, GroupSize)
			results := make([]Result, GroupSize)
			for i := range hbs {
				hbs[i] = benchHeartbeat(0, 1)
			}
			b.ReportAllocs()
			b.ResetTimer()
			seq := uint64(2)
			for done := 0; done < b.N; done += len(hbs) {
				for i := range hbs {
					n := rng.Uint64N(uint64(devices))
					hbs[i].User, hbs[i].Device, hbs[i].Seq = benchID(n/2), benchID(n), seq
					seq++
				}
				if n, _ := g.Apply(hbs, results); n != len(hbs) {
					b.Fatal("left alone")
				}
			}
		})
	}
}

// BenchmarkUsers asks for a thousand users picked at random, of two devices each.
func BenchmarkUsers(b *testing.B) {
	for _, devices := range []int{2_000, 200_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			e := benchEngine(b, devices)
			rng := rand.New(rand.NewPCG(1, 2))
			lists := make([][]uuid.UUID, 50)
			for l := range lists {
				for range 1000 {
					lists[l] = append(lists[l], benchID(rng.Uint64N(uint64(devices/2))))
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			shown := 0
			for n := 0; b.Loop(); n++ {
				if err := e.Users(lists[n%len(lists)], 1<<20, func(u *User) {
					shown += len(u.Devices)
				}); err != nil {
					b.Fatal(err)
				}
			}
			if shown == 0 {
				b.Error("no device was shown")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/user")
		})
	}
}
