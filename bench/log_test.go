package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"

	"rollcall/wal"
)

// recordBytes is what the engine logs for a heartbeat with a source of 20 bytes.
const recordBytes = 96

// logger makes records durable.
type logger interface {
	// append returns when the record is on stable storage. Any goroutine.
	append(record []byte) error
	close() error
}

// BenchmarkLog is a closed loop of appenders that wait for durability, as heartbeats do. by=ceiling
// is one thread that hands so many records to one write and one fdatasync, inside a file of zeros:
// no appender is woken, no record is framed. A closed loop of waiters splits into two groups, one
// being written while the other is woken, so half of the ceiling is its natural most.
func BenchmarkLog(b *testing.B) {
	for _, appenders := range []int{64, 1000, 10000} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			for _, l := range []struct {
				by   string
				open func(dir string) (logger, error)
			}{
				{"rollcall", openWAL},
				{"pebble-commit", openPebbleCommit},
				{"pebble-group", openPebbleGroup},
				{"pebble-record", openPebbleRecord},
			} {
				b.Run("by="+l.by, func(b *testing.B) { benchLog(b, appenders, l.open) })
			}
			b.Run("by=ceiling", func(b *testing.B) { benchPlainLoop(b, appenders*recordBytes, appenders) })
		})
	}
}

// BenchmarkSync is one write and its fdatasync, alone: the least that waiting for durability takes.
func BenchmarkSync(b *testing.B) {
	b.Run("by=ceiling", func(b *testing.B) { benchPlainLoop(b, 4096, 1) })
}

// benchLog opens the log once and measures it several times.
func benchLog(b *testing.B, appenders int, open func(dir string) (logger, error)) {
	l, err := open(tempDir(b))
	if err != nil {
		b.Fatal(err)
	}
	rec := make([]byte, recordBytes)
	b.Run(fmt.Sprintf("bytes=%d", recordBytes), func(b *testing.B) {
		b.ReportAllocs()
		closedLoop(b, appenders, func(_, _ int) error { return l.append(rec) })
	})
	if err := l.close(); err != nil {
		b.Fatal(err)
	}
}

// benchPlainLoop writes and syncs; each time counts as some records.
func benchPlainLoop(b *testing.B, bytes, records int) {
	f, err := zeroFile(filepath.Join(tempDir(b), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block, at := make([]byte, bytes), int64(0)
	b.Run(fmt.Sprintf("bytes=%d", bytes/records), func(b *testing.B) {
		var took []time.Duration
		for done := 0; done < b.N; done += records {
			if at+int64(bytes) > fileBytes {
				at = 0
			}
			block[0]++
			began := time.Now()
			if _, err := f.WriteAt(block, at); err != nil {
				b.Fatal(err)
			}
			if err := fdatasync(f); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
			at += int64(bytes)
		}
		b.StopTimer()
		b.ReportMetric(float64(len(took)*records)/b.Elapsed().Seconds(), "ops/s")
		reportP99(b, took)
	})
}

type walLogger struct{ *wal.Log }

func openWAL(dir string) (logger, error) {
	l, err := wal.Open(dir, wal.Options{})
	if err != nil {
		return nil, err
	}
	return walLogger{l}, l.Start(nil)
}

func (l walLogger) append(rec []byte) error {
	if err := l.Reserve(len(rec), time.Minute); err != nil {
		return err
	}
	return l.Wait(l.Append(rec, 0))
}

func (l walLogger) close() error { return l.Close() }

// pebbleDB is a database with room for what is written between two flushes.
func pebbleDB(dir string) (*pebble.DB, error) {
	return pebble.Open(dir, &pebble.Options{MemTableSize: 64 << 20, Logger: quiet{}})
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// pebbleCommit lets each appender commit a batch of its own; Pebble's commit pipeline joins their
// syncs.
type pebbleCommit struct {
	db  *pebble.DB
	lsn atomic.Uint64
}

func openPebbleCommit(dir string) (logger, error) {
	db, err := pebbleDB(dir)
	return &pebbleCommit{db: db}, err
}

func (l *pebbleCommit) append(rec []byte) error {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], l.lsn.Add(1))
	return l.db.Set(key[:], rec, pebble.Sync)
}

func (l *pebbleCommit) close() error { return l.db.Close() }

// pebbleGroup lets one goroutine join what waits into one batch.
type pebbleGroup struct {
	db     *pebble.DB
	mu     sync.Mutex
	filled *group // guarded by mu
	wake   chan struct{}
	done   chan struct{}
}

// group is what one batch covers.
type group struct {
	batch *pebble.Batch
	next  [8]byte
	err   error // set before synced is closed

	synced chan struct{}
}

func openPebbleGroup(dir string) (logger, error) {
	db, err := pebbleDB(dir)
	if err != nil {
		return nil, err
	}
	l := &pebbleGroup{db: db, wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.filled = l.newGroup()
	go l.loop()
	return l, nil
}

func (l *pebbleGroup) newGroup() *group {
	return &group{batch: l.db.NewBatch(), synced: make(chan struct{})}
}

func (l *pebbleGroup) append(rec []byte) error {
	l.mu.Lock()
	g := l.filled
	binary.BigEndian.PutUint64(g.next[:], binary.BigEndian.Uint64(g.next[:])+1)
	err := g.batch.Set(g.next[:], rec, nil)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	<-g.synced
	return g.err
}

func (l *pebbleGroup) loop() {
	defer close(l.done)
	for range l.wake {
		fresh := l.newGroup()
		l.mu.Lock()
		g := l.filled
		fresh.next = g.next
		l.filled = fresh
		l.mu.Unlock()
		if !g.batch.Empty() {
			g.err = g.batch.Commit(pebble.Sync)
		}
		close(g.synced)
		_ = g.batch.Close() // it was committed
	}
}

func (l *pebbleGroup) close() error {
	close(l.wake)
	<-l.done
	_ = l.filled.batch.Close() // it is empty
	return l.db.Close()
}

// pebbleRecord is the writer under Pebble's log, with the semaphore that Pebble puts before it, on
// a file of zeros as a recycled log is: at the end of a growing one each sync would have a size to
// store.
type pebbleRecord struct {
	mu    sync.Mutex
	w     *record.LogWriter // SyncRecord is guarded by mu
	slots chan struct{}
	waits sync.Pool
}

func openPebbleRecord(dir string) (logger, error) {
	f, err := zeroFile(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	l := &pebbleRecord{slots: make(chan struct{}, record.SyncConcurrency)}
	l.waits.New = func() any { return new(syncWait) }
	l.w = record.NewLogWriter(&ringFile{File: f}, 1, record.LogWriterConfig{
		QueueSemChan:        l.slots,
		WriteWALSyncOffsets: func() bool { return false },
	})
	return l, nil
}

type syncWait struct {
	wg  sync.WaitGroup
	err error
}

func (l *pebbleRecord) append(rec []byte) error {
	wait := l.waits.Get().(*syncWait)
	defer l.waits.Put(wait)
	wait.err = nil
	wait.wg.Add(1)
	l.slots <- struct{}{}
	l.mu.Lock()
	_, err := l.w.SyncRecord(rec, &wait.wg, &wait.err)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	wait.wg.Wait()
	return wait.err
}

func (l *pebbleRecord) close() error { return l.w.Close() }

// ringFile begins again where its zeros end, and syncs data without times, as everything else here
// does.
type ringFile struct {
	*os.File
	at int
}

func (f *ringFile) Write(p []byte) (int, error) {
	if f.at+len(p) > fileBytes {
		f.at = 0
	}
	n, err := f.WriteAt(p, int64(f.at))
	f.at += n
	return n, err
}

func (f *ringFile) Sync() error { return fdatasync(f.File) }

const fileBytes = 16 << 20

// zeroFile makes a file of zeros that are on the disk.
func zeroFile(name string) (*os.File, error) {
	f, err := os.Create(name)
	if err == nil {
		_, err = f.Write(make([]byte, fileBytes))
	}
	if err == nil {
		err = f.Sync()
	}
	return f, err
}
