package wal

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// BenchmarkCommit is a closed loop of appenders that wait for durability, on the disk that holds
// the temporary directory. Each op is one record of 64 bytes.
func BenchmarkCommit(b *testing.B) {
	for _, appenders := range []int{1, 64, 1000, 10000} {
		b.Run(fmt.Sprintf("sync=always/record=64/appenders=%d", appenders), func(b *testing.B) {
			l := benchLog(b, vfs.Default, Options{})
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range appenders {
				wg.Go(func() {
					record := make([]byte, 64)
					for next.Add(1) <= int64(b.N) {
						if err := l.Reserve(len(record), time.Minute); err != nil {
							b.Error(err)
							return
						}
						if err := l.Wait(l.Append(record, 0)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			s := l.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(s.Records)/float64(max(1, s.Batches)), "records/batch")
		})
	}
}

// BenchmarkAppend is the cost of Reserve, Append and the commit loop's share, without a waiter
// and no disk.
func BenchmarkAppend(b *testing.B) {
	l := benchLog(b, nullFS{vfs.NewMem()}, Options{Sync: SyncNever})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		record := make([]byte, 64)
		for pb.Next() {
			if err := l.Reserve(len(record), time.Minute); err != nil {
				b.Error(err)
				return
			}
			l.Append(record, 0)
		}
	})
}

// BenchmarkLongestWaits is the longest wait for room, and the longest commit, of a young log that
// is written steadily. Each op is 200 records of 100 bytes from each of four appenders, 16 MB/s in
// all: 600 ops fill the first four segments, 2000 reach those of 64 MiB.
func BenchmarkLongestWaits(b *testing.B) {
	for _, mode := range modes {
		b.Run("sync="+mode.String()+"/record=100/appenders=4", func(b *testing.B) {
			var commit time.Duration // a turn sets it, one at a time
			l := benchLog(b, vfs.Default, Options{
				Sync: mode, ObserveCommit: func(_ uint64, took time.Duration) {
					commit = max(commit, took)
				},
			})
			var reserve atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 4 {
				wg.Go(func() {
					record := make([]byte, 100)
					ticker := time.NewTicker(5 * time.Millisecond)
					defer ticker.Stop()
					for range b.N {
						<-ticker.C
						var lsn uint64
						for range 200 {
							began := time.Now()
							if err := l.Reserve(len(record), time.Minute); err != nil {
								b.Error(err)
								return
							}
							took := int64(time.Since(began))
							for old := reserve.Load(); old < took &&
								!reserve.CompareAndSwap(old, took); old = reserve.Load() {
							}
							lsn = l.Append(record, 0)
						}
						if err := l.Wait(lsn); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(time.Duration(reserve.Load()).Seconds()*1e3, "longest-reserve-ms")
			b.ReportMetric(commit.Seconds()*1e3, "longest-commit-ms")
			s := l.Stats()
			b.ReportMetric(s.SyncTime.Seconds()*1e3/float64(max(1, s.Syncs)), "sync-ms")
		})
	}
}

func benchLog(b *testing.B, fs vfs.FS, o Options) *Log {
	o.FS = fs
	l, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// nullFS forgets what is written to its files.
type nullFS struct{ vfs.FS }

type nullFile struct{ vfs.File }

func (fs nullFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return nullFile{f}, err
}

func (nullFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
