package bench

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/wal"
)

// BenchmarkHeartbeat is a whole heartbeat in the process: find, check, append, commit, arm, wait.
// Without a log it shows what the engine itself takes; with one, its ceiling is
// BenchmarkLog/by=rollcall with as many appenders, the log alone.
func BenchmarkHeartbeat(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		b.Run("sync=none", func(b *testing.B) {
			l := &noLog{}
			benchEngine(b, size, l, 1)
		})
		b.Run("sync=always", func(b *testing.B) {
			if size > 1_000_000 {
				b.Skip("filling the log takes minutes, and its cost does not depend on the devices")
			}
			l, err := wal.Open(tempDir(b), wal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			benchEngine(b, size, l, 1000)
		})
	})
}

func benchEngine(b *testing.B, size int, l engine.Log, appenders int) {
	e := startEngine(b, l, engine.Options{})
	defer e.Close(context.Background())
	fill(b, e, size)
	next := uint64(2) // seq
	b.Run(fmt.Sprintf("appenders=%d/by=rollcall", appenders), func(b *testing.B) {
		b.ReportAllocs()
		reports := make([]engine.Heartbeat, appenders)
		base := next
		next += uint64(b.N)
		closedLoop(b, appenders, func(proc, op int) error {
			// The goroutines' devices differ, and each goroutine jumps through its own.
			mine := max(1, size/appenders)
			n := uint64(op*stride%mine*appenders+proc) % uint64(size)
			return beat(e, &reports[proc], n, base+uint64(op))
		})
	})
}

// fill makes every device known.
func fill(b *testing.B, e *engine.Engine, size int) {
	const procs = 4000
	var wg sync.WaitGroup
	for proc := range procs {
		wg.Go(func() {
			var hb engine.Heartbeat
			for n := proc; n < size; n += procs {
				if err := beat(e, &hb, uint64(n), 1); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

var source = []byte("daemon-of-twenty-chr")

var errRefused = errors.New("a heartbeat was refused")

func beat(e *engine.Engine, hb *engine.Heartbeat, n, seq uint64) error {
	report(hb, n, seq, userOf(n))
	if r := e.Heartbeat(hb); r.Outcome != engine.Accepted {
		return fmt.Errorf("%w: %+v", errRefused, r)
	}
	return nil
}

// report is the seq-th heartbeat of device n.
func report(hb *engine.Heartbeat, n, seq uint64, user uuid.UUID) {
	hb.User, hb.Device, hb.Status, hb.Source = user, id(n), engine.Online, source
	hb.SentAtMS, hb.Seq, hb.TTLMS = 1739030400000+seq, seq, uint64(forever.Milliseconds())
}

// noLog numbers records and forgets them. What the engine asks of a log besides is for checkpoints,
// which are not taken.
type noLog struct {
	engine.Log
	lsn atomic.Uint64
}

func (l *noLog) Replay(uint64, func(uint64, []byte) error) error { return nil }
func (l *noLog) Replayed() (next uint64, done, total int64)      { return l.lsn.Load() + 1, 0, 0 }
func (l *noLog) Start(func(first, last uint64, records iter.Seq[[]byte], stamp int64,
	took time.Duration)) error {
	return nil
}
func (l *noLog) Reserve(int, time.Duration) error { return nil }
func (l *noLog) Release(int)                      {}
func (l *noLog) Append([]byte, int64) uint64      { return l.lsn.Add(1) }
func (l *noLog) Appended() uint64                 { return l.lsn.Load() }
func (l *noLog) Wait(uint64) error                { return nil }
func (l *noLog) Commit(uint64) error              { return nil }
func (l *noLog) Kick()                            {}
func (l *noLog) Sync(uint64) error                { return nil }
func (l *noLog) TruncateBefore(uint64) error      { return nil }
func (l *noLog) Committed() uint64                { return l.lsn.Load() }
func (l *noLog) Committing() time.Duration        { return 0 }
func (l *noLog) Size() (int, int64)               { return 1, 0 }
func (l *noLog) Stalled() bool                    { return false }
func (l *noLog) NoSpace() bool                    { return false }
func (l *noLog) Failed() <-chan struct{}          { return nil }
func (l *noLog) Err() error                       { return nil }
