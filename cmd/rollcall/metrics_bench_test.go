//go:build unix

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/wal"
	"rollcall/wire"
)

// BenchmarkMetrics is a heartbeat of 1,000 devices in the process, log and one stream included,
// without the histograms and with them. The counters are there in both: they are part of the
// engine. Run the two in turn, several times, and compare the medians of the processor's time.
func BenchmarkMetrics(b *testing.B) {
	for _, sync := range []wal.SyncMode{wal.SyncAlways, wal.SyncNever} {
		for _, on := range []bool{false, true} {
			b.Run(fmt.Sprintf("sync=%v/histograms=%v", sync, on),
				func(b *testing.B) { benchMetrics(b, sync, on) })
		}
	}
}

func benchMetrics(b *testing.B, mode wal.SyncMode, on bool) {
	const devices = 1000
	logger := slog.New(slog.DiscardHandler)
	logOptions := wal.Options{Sync: mode, Logger: logger}
	options := engine.Options{Logger: logger}
	if on {
		h := newHistograms(registry(), false)
		logOptions.ObserveCommit = h.observeCommit
		options.ObserveLateness, options.ObserveDelivery = h.lateness.Observe, h.delivery.Observe
	}
	log, err := wal.Open(b.TempDir(), logOptions)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	e, err := engine.New(log, options)
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close(context.Background())

	callers := devices // with --sync=always they wait for the disk, and make the batches large
	if mode != wal.SyncAlways {
		callers = runtime.GOMAXPROCS(0)
	}
	reports := make([]engine.Heartbeat, devices)
	for i := range reports {
		reports[i] = engine.Heartbeat{Heartbeat: wire.Heartbeat{
			User: uuid.New(), Device: uuid.New(), Status: engine.Online,
			Source: []byte("bench"), TTLMS: 1 << 40,
		}}
	}
	followInside(b, e, reports[0].User)
	before, _ := processorTime()
	b.ResetTimer()
	var running sync.WaitGroup
	for caller := range callers {
		running.Go(func() {
			for i := caller; i < b.N; i += callers {
				hb := &reports[i%devices]
				if hb.Seq++; e.Heartbeat(hb).Outcome != engine.Accepted {
					b.Error("refused")
					return
				}
			}
		})
	}
	running.Wait()
	b.StopTimer()
	after, _ := processorTime() // unlike the clock's, it hardly depends on what else runs
	b.ReportMetric(float64(after-before)/float64(b.N), "cpu-ns/op")
}

// followInside opens a stream whose client drops what it gets.
func followInside(b *testing.B, e *engine.Engine, user uuid.UUID) {
	ours, theirs := net.Pipe()
	conn, err := e.Take(ours)
	if err == nil {
		err = e.Subscribe(broadcast.Subscription{User: user, Conn: conn})
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { theirs.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := theirs.Read(buf); err != nil {
				return
			}
		}
	}()
	testwait.Until(b, "the stream is there", func() bool { return e.Streams(user) > 0 })
}
