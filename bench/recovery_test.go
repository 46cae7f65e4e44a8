package bench

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/engine"
	"rollcall/engine/table"
	"rollcall/record"
	"rollcall/wal"
)

// BenchmarkRecovery is a start from a checkpoint: open the store, fill the table, arm every device.
// Beside it, in the same number of goroutines: reading the same files from end to end, and that
// with a plain insert into the table for each device. With cache=cold the files are out of the page
// cache when a round begins.
func BenchmarkRecovery(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		dir := filepath.Join(tempDir(b), "checkpoint")
		log := &noLog{}
		writeCheckpoint(b, dir, log, size)
		for _, cache := range []string{"warm", "cold"} {
			b.Run("cache="+cache, func(b *testing.B) {
				before := func() {
					if cache == "cold" {
						dropCache(b, dir)
					}
				}
				b.Run("by=rollcall", func(b *testing.B) {
					eachRound(b, size, before,
						func() func() { return recoverCheckpoint(b, dir, log, size) })
					b.ReportMetric(float64(bytesIn(b, dir))/float64(size), "B/device")
				})
				b.Run("by=read", func(b *testing.B) {
					eachRound(b, size, before,
						func() func() { readFiles(b, dir); return func() {} })
				})
				b.Run("by=read-and-insert", func(b *testing.B) {
					eachRound(b, size, before,
						func() func() { readFiles(b, dir); return insertAll(b, size).Close })
				})
			})
		}
	})
}

// BenchmarkReplay is a start from the log alone: read it, apply every record, arm every device.
// Beside it the reader of the log alone, and plain reading of its files.
func BenchmarkReplay(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		records := max(4*size, 1_000_000)
		if records > 4_000_000 {
			b.Skip("filling the log takes minutes, and its cost does not depend on the devices")
		}
		dir := tempDir(b)
		writeLog(b, dir, size, records)
		b.Run("by=rollcall", func(b *testing.B) {
			eachRound(b, records, nil, func() func() { return recoverLog(b, dir, size) })
		})
		b.Run("by=reader", func(b *testing.B) {
			eachRound(b, records, nil, func() func() {
				l := openLog(b, dir)
				if err := l.Replay(0, func(uint64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
				return func() { closeIt(b, l) }
			})
		})
		b.Run("by=read", func(b *testing.B) {
			eachRound(b, records, nil, func() func() { readFiles(b, dir); return func() {} })
		})
	})
}

// eachRound times round alone: what readies it and what takes its result down do not count. It
// reports how many of the things that a round has pass in a second.
func eachRound(b *testing.B, things int, before func(), round func() (after func())) {
	for range b.N {
		b.StopTimer()
		if before != nil {
			before()
		}
		runtime.GC()
		b.StartTimer()
		after := round()
		b.StopTimer()
		after()
		b.StartTimer()
	}
	b.ReportMetric(float64(things)*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// writeCheckpoint makes a checkpoint of so many devices.
func writeCheckpoint(b *testing.B, dir string, log *noLog, size int) {
	e, store := openEngine(b, dir, log)
	defer closeIt(b, store)
	defer e.Close(context.Background())
	fill(b, e, size)
	if n, err := e.Checkpoint(nil); err != nil || n != size {
		b.Fatalf("%d devices in the checkpoint, want %d: %v", n, size, err)
	}
}

// recoverCheckpoint is a start as the server does it; the log has nothing beyond the checkpoint.
func recoverCheckpoint(b *testing.B, dir string, log *noLog, size int) (after func()) {
	e, store := openEngine(b, dir, log)
	if n := e.Stats().Devices; n != size {
		b.Fatalf("%d devices came back, want %d", n, size)
	}
	return func() {
		e.Close(context.Background())
		closeIt(b, store)
	}
}

// openEngine starts an engine that takes no checkpoint by itself.
func openEngine(b *testing.B, dir string, log engine.Log) (*engine.Engine, *checkpoint.Store) {
	quiet := slog.New(slog.DiscardHandler)
	store, err := checkpoint.Open(dir, checkpoint.Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	e := startEngine(b, log, engine.Options{Store: store, CheckpointBytes: 1 << 60,
		CheckpointEvery: forever})
	return e, store
}

func openLog(b *testing.B, dir string) *wal.Log {
	l, err := wal.Open(dir, wal.Options{Sync: wal.SyncNever, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// writeLog makes a log of so many records, in which every device comes as often as any other, in an
// order that jumps.
func writeLog(b *testing.B, dir string, size, records int) {
	l := openLog(b, dir)
	defer closeIt(b, l)
	e := startEngine(b, l, engine.Options{MaxWait: time.Minute})
	defer e.Close(context.Background())
	var hb engine.Heartbeat
	for n := range records {
		if err := beat(e, &hb, uint64(n)*stride%uint64(size), uint64(1+n/size)); err != nil {
			b.Fatal(err)
		}
	}
}

// recoverLog is a start as the server does it, without a checkpoint.
func recoverLog(b *testing.B, dir string, size int) (after func()) {
	l := openLog(b, dir)
	e := startEngine(b, l, engine.Options{MaxWait: time.Minute})
	if n := e.Stats().Devices; n != size {
		b.Fatalf("%d devices came back, want %d", n, size)
	}
	return func() {
		e.Close(context.Background())
		closeIt(b, l)
	}
}

// startEngine starts an engine on l with these options; frames are the server's, and nothing is
// logged.
func startEngine(b *testing.B, l engine.Log, o engine.Options) *engine.Engine {
	b.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	e, err := engine.New(l, o)
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func closeIt(b *testing.B, c io.Closer) {
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}

// readFiles reads every file of a directory from end to end, as many at a time as there are
// processors.
func readFiles(b *testing.B, dir string) {
	paths := make(chan string)
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() {
			buffer := make([]byte, 1<<20)
			for path := range paths {
				if err := readFile(path, buffer); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, path := range filesIn(b, dir) {
		paths <- path
	}
	close(paths)
	readers.Wait()
}

func readFile(path string, buffer []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for err == nil {
		_, err = f.Read(buffer)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// insertAll makes a table of so many devices in as many goroutines as there are processors.
func insertAll(b *testing.B, size int) *table.Table {
	t := table.New(table.Options{})
	var next atomic.Int64
	var inserters sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		inserters.Go(func() {
			const some = 1024
			for from := int(next.Add(some)) - some; from < size; from = int(next.Add(some)) - some {
				for n := from; n < min(from+some, size); n++ {
					insert(b, t, userOf(uint64(n)), id(uint64(n)), uint64(n+1))
				}
			}
		})
	}
	inserters.Wait()
	return t
}

func insert(b *testing.B, t *table.Table, user, device uuid.UUID, lsn uint64) {
	_, entry, err := t.FindOrInsert(user, device)
	if err != nil || !entry.Claim(user, device) {
		b.Error("no entry", err)
		return
	}
	entry.Commit(&table.State{State: record.State{Online: true, Seq: 1, TTLMS: 1}, LSN: lsn,
		Source: 1, DeadlineNanos: int64(time.Hour)})
}

// filesIn lists the files of a directory that hold data.
func filesIn(b *testing.B, dir string) (paths []string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, "LOCK") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return paths
}

func bytesIn(b *testing.B, dir string) (sum int64) {
	for _, path := range filesIn(b, dir) {
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}
