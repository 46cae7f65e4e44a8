package jslog_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/jslog"
	"rollcall/wire"
)

// BenchmarkClaim takes over a partition of a NATS server in this process: from the claim to an
// engine that serves. Half of the devices have a record behind the checkpoint.
// ROLLCALL_BENCH_DEVICES sets how many there are.
func BenchmarkClaim(b *testing.B) {
	devices := 100_000
	if given := os.Getenv("ROLLCALL_BENCH_DEVICES"); given != "" {
		fmt.Sscan(given, &devices)
	}
	nc := serve(b)
	stream := jslog.NATS(nc, addStream(b, nc))
	l, e := own(b, stream)
	beatAll(b, e, devices, 1)
	if _, err := e.Checkpoint(nil); err != nil {
		b.Fatal(err)
	}
	beatAll(b, e, devices/2, 2)
	_, size := l.Size()
	e.Close(context.Background())
	l.Close()
	b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
		for b.Loop() {
			l, e := own(b, stream)
			b.StopTimer()
			if n := e.Stats().Online; n != devices {
				b.Fatalf("%d devices", n)
			}
			e.Close(context.Background())
			l.Close()
			b.StartTimer()
		}
		b.ReportMetric(float64(size)/(1<<20), "MiB")
	})
}

// own claims a stream for an engine.
func own(b *testing.B, s jslog.Stream) (*jslog.Log, *engine.Engine) {
	b.Helper()
	l, err := jslog.Claim(context.Background(), s, options())
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(l, engine.Options{
		Store: l.Store(), Logger: slog.New(slog.DiscardHandler), Events: nowhere{},
		CheckpointEvery: time.Hour, CheckpointBytes: 1 << 40,
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Start(); err != nil {
		b.Fatal(err)
	}
	return l, e
}

// beatAll sends a heartbeat of each device, two to a user.
func beatAll(b *testing.B, e *engine.Engine, devices int, seq uint64) {
	b.Helper()
	hbs := make([]engine.Heartbeat, 0, engine.GroupSize)
	for n := 0; n < devices; {
		batch := e.NewBatch()
		for i := 0; i < 10_000 && n < devices; {
			for hbs = hbs[:0]; len(hbs) < cap(hbs) && n < devices; n++ {
				var user, device uuid.UUID
				binary.BigEndian.PutUint64(user[:], uint64(n/2)*0x9e3779b97f4a7c15)
				binary.BigEndian.PutUint64(device[:], uint64(n)*0x9e3779b97f4a7c15)
				hbs = append(hbs, engine.Heartbeat{Heartbeat: wire.Heartbeat{
					User: user, Device: device, Seq: seq, SentAtMS: 1, TTLMS: 1 << 40,
					Status: engine.Online, Source: []byte("bench"),
				}})
			}
			batch.Add(hbs)
			i += len(hbs)
		}
		if err := batch.Settle(); err != nil {
			b.Fatal(err)
		}
		if c := batch.Counts(); c.Unavailable > 0 {
			b.Fatalf("%+v", c)
		}
		batch.Release()
	}
}
