package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"rollcall/engine"
	"rollcall/wal"
)

// batchLines is how many heartbeats one batch has here.
const batchLines = 1000

// BenchmarkBatch is BenchmarkHeartbeat for batches: an operation is one heartbeat of a device
// picked at random, in batches of a thousand that are waited for as a whole. by=heartbeat gives the
// same reports one by one, each waited for, which with a log is what a single goroutine gets.
func BenchmarkBatch(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		b.Run("sync=none", func(b *testing.B) {
			benchBatch(b, size, &noLog{}, true)
		})
		b.Run("sync=always", func(b *testing.B) {
			l, err := wal.Open(tempDir(b), wal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			benchBatch(b, size, l, false)
		})
	})
}

func benchBatch(b *testing.B, size int, l engine.Log, single bool) {
	e := startEngine(b, l, engine.Options{})
	defer e.Close(context.Background())
	fillBatches(b, e, size, 2)
	seq := uint64(1)
	for _, procs := range []int{1, runtime.GOMAXPROCS(0), 16} {
		b.Run(fmt.Sprintf("procs=%d/by=batch", procs), func(b *testing.B) {
			eachSender(b, procs, &seq, func(s *sender, n int) error { return s.batch(e, size, n) })
		})
		if single && procs <= runtime.GOMAXPROCS(0) {
			b.Run(fmt.Sprintf("procs=%d/by=heartbeat", procs), func(b *testing.B) {
				eachSender(b, procs, &seq,
					func(s *sender, n int) error { return s.single(e, size, n) })
			})
		}
	}
}

// sender reports on its own part of the devices.
type sender struct {
	proc, procs int
	seq         uint64
	rng         *rand.Rand
	hbs         [engine.GroupSize]engine.Heartbeat
}

// eachSender lets some goroutines send b.N heartbeats between them, batchLines at a time.
func eachSender(b *testing.B, procs int, seq *uint64, send func(s *sender, n int) error) {
	base := *seq
	*seq += uint64(b.N)
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for proc := range procs {
		s := &sender{proc: proc, procs: procs, seq: base,
			rng: rand.New(rand.NewPCG(uint64(proc), base))}
		wg.Go(func() {
			for left := share(b.N, procs, proc); left > 0; left -= batchLines {
				if err := send(s, min(left, batchLines)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func (s *sender) next(hb *engine.Heartbeat, size int) {
	n := s.rng.Uint64N(uint64(size/s.procs))*uint64(s.procs) + uint64(s.proc)
	s.seq++
	report(hb, n, s.seq, userOf(n))
}

func (s *sender) batch(e *engine.Engine, size, n int) error {
	b := e.NewBatch()
	defer b.Release()
	for n > 0 {
		group := min(n, engine.GroupSize)
		for i := range group {
			s.next(&s.hbs[i], size)
		}
		b.Add(s.hbs[:group])
		n -= group
	}
	return settle(b)
}

// settle returns an error unless everything in the batch was accepted.
func settle(b engine.Batch) error {
	if err := b.Settle(); err != nil {
		return err
	}
	if rejected := b.Rejections(); len(rejected) > 0 {
		return fmt.Errorf("%w: %+v", errRefused, rejected[0])
	}
	return nil
}

func (s *sender) single(e *engine.Engine, size, n int) error {
	for range n {
		s.next(&s.hbs[0], size)
		if r := e.Heartbeat(&s.hbs[0]); r.Outcome != engine.Accepted {
			return fmt.Errorf("%w: %+v", errRefused, r)
		}
	}
	return nil
}

// fillBatches makes every device known; perUser of them have one user.
func fillBatches(b *testing.B, e *engine.Engine, size, perUser int) {
	s, pending := new(sender), e.NewBatch()
	defer pending.Release()
	for n := 0; n < size; {
		group := min(size-n, engine.GroupSize)
		for i := range group {
			report(&s.hbs[i], uint64(n+i), 1, id(uint64((n+i)/perUser)))
		}
		pending.Add(s.hbs[:group])
		n += group
	}
	if err := settle(pending); err != nil {
		b.Fatal(err)
	}
}
