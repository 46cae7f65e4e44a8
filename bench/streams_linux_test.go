package bench

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"rollcall/engine/broadcast"
)

const (
	// two descriptors of each are ours: the broadcaster's and the plain loop's
	manyStreams   = 9_900
	streamWorkers = 2
	fewIdle       = 2_000
	manyIdle      = 18_000
)

// BenchmarkStreams has the figures of many streams: fan-out as a share of a plain loop of write(2)
// over the very same sockets, what a crowd does to others, memory, and connects. Needs 20,000
// descriptors for each of two processes.
func BenchmarkStreams(b *testing.B) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 20_000 {
		b.Skipf("needs 20,000 descriptors, there are %d: ulimit -n 20000", limit.Cur)
	}
	for _, burst := range []int{1, 8} {
		b.Run(fmt.Sprintf("fan-out/streams=%d/users=%d/burst=%d", manyStreams, manyStreams, burst), func(b *testing.B) {
			benchShare(b, manyStreams, manyStreams, streamWorkers, burst)
		})
	}
	b.Run(fmt.Sprintf("fan-out/streams=%d/users=1", manyStreams), func(b *testing.B) { benchShare(b, manyStreams, 1, 1, 1) })
	b.Run("last/streams=1000/users=1", func(b *testing.B) { benchShare(b, 1000, 1, 1, 1) })
	b.Run(fmt.Sprintf("others/streams=%d/users=1", manyStreams), benchOthers)
	b.Run("idle", benchIdle)
	b.Run("connects", benchConnects)
}

// commitEvents is how many events a batch of the log brings at a time.
const commitEvents = 1000

// benchShare lets the broadcaster and a plain loop take turns on the same sockets. Each user has a
// burst of events.
func benchShare(b *testing.B, streams, users, workers, burst int) {
	c := newFarCrowd(b, streams)
	fds := c.duplicates(b)
	s := c.follow(b, users, workers, nil)
	defer s.Close()
	chunk := appendChunk(nil, bytes.Repeat(frameText(), burst))
	var ours, plain []time.Duration
	event, lsn, flushed := make([]byte, recordBytes), uint64(0), uint64(0)
	writes := s.Stats().Writes
	b.ResetTimer()
	for range b.N {
		ours = append(ours, c.round(b, burst*streams, func() {
			for u := range users {
				for range burst {
					lsn++
					s.Publish(0, id(uint64(u)), lsn, event)
				}
				if lsn-flushed >= commitEvents || u == users-1 {
					s.Flush(0, lsn, 0)
					flushed = lsn
				}
			}
		}))
		plain = append(plain, c.round(b, burst*streams, func() { writeAll(fds, chunk, workers) }))
	}
	b.StopTimer()
	frames := float64(b.N * burst * streams)
	b.ReportMetric(frames/float64(s.Stats().Writes-writes), "frames/write")
	b.ReportMetric(frames/sum(ours).Seconds(), "frames/s")
	b.ReportMetric(frames/sum(plain).Seconds(), "plain-frames/s")
	b.ReportMetric(sum(plain).Seconds()/sum(ours).Seconds(), "ratio")
	b.ReportMetric(float64(p99(ours)), "p99-ns")
	b.ReportMetric(float64(p99(plain)), "plain-p99-ns")
}

// writeAll writes a chunk to each socket, from some threads. A socket that takes nothing would be a
// fault: a round waits until all is read.
func writeAll(fds []int, chunk []byte, threads int) {
	var group sync.WaitGroup
	for thread := range threads {
		group.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for i := thread; i < len(fds); i += threads {
				if n, err := unix.Write(fds[i], chunk); err != nil || n < len(chunk) {
					panic(fmt.Sprintf("wrote %d of %d bytes: %v", n, len(chunk), err))
				}
			}
		})
	}
	group.Wait()
}

// noting is a stream's connection that notes when it is written to.
type noting struct {
	broadcast.Conn
	wrote chan time.Time
}

func (n noting) Attach(broadcast.Notifier, broadcast.StreamID) error { return nil }
func (n noting) Discard([]byte) (int, bool)                          { return 0, false }
func (n noting) Held() int                                           { return 0 }
func (n noting) CloseWrite() error                                   { return nil }
func (n noting) Close() error                                        { return nil }
func (n noting) Write(p []byte) (int, error) {
	n.wrote <- time.Now()
	return len(p), nil
}

// benchOthers measures how long an event of another user of the same worker waits until it is
// written, first alone and then while one user's thousands of streams get one event after the
// other. The clients read afterwards, as if they were on another machine, so that the wait is for
// the worker and not for a processor.
func benchOthers(b *testing.B) {
	c := newFarCrowd(b, manyStreams)
	other := noting{wrote: make(chan time.Time, 1)}
	s := c.follow(b, 1, 1, &other)
	defer s.Close()
	var mu sync.Mutex // Publish has one caller at a time
	lsn := uint64(0)
	publish := func(user uuid.UUID) {
		mu.Lock()
		defer mu.Unlock()
		lsn++
		s.Publish(0, user, lsn, make([]byte, recordBytes))
		s.Flush(0, lsn, 0)
	}
	waits := func(n int) (all []time.Duration) {
		for range n {
			began := time.Now()
			publish(id(1))
			all = append(all, (<-other.wrote).Sub(began))
			time.Sleep(200 * time.Microsecond)
		}
		return all
	}
	const each = 200
	told := uint64(0) // frames for the crowd
	var alone, beside []time.Duration
	b.ResetTimer()
	for range b.N {
		alone = append(alone, waits(each)...)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				told += manyStreams
				publish(id(0))
				// the other's are counted too: it may begin a little early
				for s.Stats().Frames < told {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		beside = append(beside, waits(each)...)
		close(stop)
		<-stopped
		c.round(b, int(told)-c.sum, func() {})
	}
	b.StopTimer()
	b.ReportMetric(float64(p99(alone)), "alone-p99-ns")
	b.ReportMetric(float64(p99(beside)), "p99-ns")
	b.ReportMetric(float64(p99(beside))/float64(p99(alone)), "others-x")
	b.ReportMetric(float64(alone[len(alone)/2]), "alone-p50-ns") // p99 has sorted them
	b.ReportMetric(float64(beside[len(beside)/2]), "p50-ns")
}

func sum(all []time.Duration) (s time.Duration) {
	for _, d := range all {
		s += d
	}
	return s
}

func p99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}
