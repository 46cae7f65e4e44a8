package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"rollcall/checkpoint"
	"rollcall/engine"
	"rollcall/wal"
)

// BenchmarkHeartbeatInCheckpoint is how long a durable heartbeat takes while nothing else runs, and
// while one checkpoint follows the other, each of which writes every device: heartbeats go to all
// of them, so that no range is as it was. The appenders pause between heartbeats, as daemons do;
// the machine is not full.
func BenchmarkHeartbeatInCheckpoint(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		dir := tempDir(b)
		l, err := wal.Open(dir, wal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer closeIt(b, l)
		store, err := checkpoint.Open(filepath.Join(dir, "checkpoint"), checkpoint.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer closeIt(b, store)
		e := startEngine(b, l, engine.Options{Store: store, CheckpointBytes: 1 << 60,
			CheckpointEvery: forever, MaxWait: time.Minute})
		defer e.Close(context.Background())
		fill(b, e, size)
		seq := uint64(2)
		b.Run("appenders=64/checkpoint=none", func(b *testing.B) { seq = paced(b, e, size, seq) })
		b.Run("appenders=64/checkpoint=running", func(b *testing.B) {
			stop, stopped := make(chan struct{}), make(chan struct{})
			written := 0
			go func() {
				defer close(stopped)
				for {
					n, err := e.Checkpoint(stop)
					if err != nil {
						return // it was stopped
					}
					written += n
				}
			}()
			seq = paced(b, e, size, seq)
			close(stop)
			<-stopped
			b.ReportMetric(float64(written)/b.Elapsed().Seconds(), "written/s")
		})
	})
}

// pause is between two heartbeats of an appender.
const pause = 5 * time.Millisecond

// paced sends b.N heartbeats from 64 goroutines that pause between them, and returns a seq that is
// above all of theirs.
func paced(b *testing.B, e *engine.Engine, size int, seq uint64) uint64 {
	const appenders = 64
	took := make([][]time.Duration, appenders)
	var wg sync.WaitGroup
	for proc := range appenders {
		wg.Go(func() {
			var hb engine.Heartbeat
			for op := range share(b.N, appenders, proc) {
				time.Sleep(pause)
				began := time.Now()
				if err := beat(e, &hb, (uint64(op*appenders+proc)*stride)%uint64(size),
					seq+uint64(op)); err != nil {
					b.Error(fmt.Errorf("proc %d: %w", proc, err))
					return
				}
				took[proc] = append(took[proc], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	reportP99(b, slices.Concat(took...))
	return seq + uint64(b.N)
}
