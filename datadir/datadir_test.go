package datadir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/checkpoint"
	"rollcall/internal/faultfs"
	"rollcall/internal/readonly"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

var quiet = slog.New(slog.DiscardHandler)

// dir is the data directory in every test.
const dir = "data"

// controlBytes is the size of the log's control file.
const controlBytes = 8192

// small are options with which a few hundred records roll segments.
func small(fs vfs.FS) wal.Options {
	return wal.Options{FS: fs, BufferBytes: 4 << 10, SegmentBytes: 16 << 10, Logger: quiet}
}

func start(t testing.TB, o wal.Options) *wal.Log {
	t.Helper()
	l, err := wal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	return l
}

// commit appends one record and waits for it, so that it becomes a block of its own.
func commit(t testing.TB, l *wal.Log, record string) uint64 {
	t.Helper()
	if err := l.Reserve(len(record), time.Minute); err != nil {
		t.Fatal(err)
	}
	lsn := l.Append([]byte(record), 0)
	if err := l.Wait(lsn); err != nil {
		t.Fatal(err)
	}
	return lsn
}

// rollAndTruncate commits n records, and takes off what lies more than keep behind. It returns
// through where.
func rollAndTruncate(t *testing.T, l *wal.Log, n, keep int) (through uint64) {
	t.Helper()
	for range n {
		lsn := commit(t, l, strings.Repeat("r", 1200))
		if lsn > uint64(keep) {
			through = lsn - uint64(keep)
			if err := l.TruncateBefore(through + 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	return through
}

// openBoth opens both parts of a directory. The log is not started, so that it can be replayed.
func openBoth(t testing.TB, dir string, fs vfs.FS) (*wal.Log, *checkpoint.Store) {
	t.Helper()
	l, c, err := Open(dir, small(fs), checkpoint.Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

// startBoth opens and starts both parts of a directory.
func startBoth(t testing.TB, dir string, fs vfs.FS) (*wal.Log, *checkpoint.Store) {
	t.Helper()
	l, c := openBoth(t, dir, fs)
	if err := errors.Join(c.Start(), l.Start(nil)); err != nil {
		t.Fatal(err)
	}
	return l, c
}

// segments returns the content of the segments of a file system by path.
func segments(t testing.TB, fs *vfs.MemFS) map[string][]byte {
	t.Helper()
	found := dump(t, fs, dir)
	maps.DeleteFunc(found, func(path string, _ []byte) bool {
		return !wal.IsSegment(fs.PathBase(path))
	})
	return found
}

func view(t testing.TB, fs vfs.FS) *View {
	t.Helper()
	v, err := OpenView(dir, fs)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// live is a log with a checkpoint beside it that keeps the highest LSN it has seen, while appenders
// work.
type live struct {
	fs    vfs.FS
	log   *wal.Log
	store *checkpoint.Store
	acked atomic.Uint64
	stop  atomic.Bool
	work  sync.WaitGroup
}

func goLive(t *testing.T, fs vfs.FS) *live {
	t.Helper()
	w := &live{fs: fs}
	w.log, w.store = startBoth(t, dir, fs)
	for range 2 {
		w.work.Go(w.append)
	}
	w.work.Go(func() { w.checkpoint(t) })
	return w
}

func (w *live) append() {
	for n := 0; !w.stop.Load(); n++ {
		record := make([]byte, 8+n%300)
		if w.log.Reserve(len(record), time.Minute) != nil {
			return
		}
		lsn := w.log.Append(record, 0)
		if w.log.Wait(lsn) != nil {
			return
		}
		for old := w.acked.Load(); old < lsn &&
			!w.acked.CompareAndSwap(old, lsn); old = w.acked.Load() {
		}
	}
}

// checkpoint takes one checkpoint after the other, as the engine does: what the store holds may be
// newer than its LSN, and the log is synced past it before.
func (w *live) checkpoint(t *testing.T) {
	for !w.stop.Load() {
		through := w.log.Appended()
		for key := range 3 {
			seen := w.log.Appended()
			if err := w.log.Sync(seen); err != nil {
				t.Error(err)
				return
			}
			k := []byte{byte(key)}
			if err := w.store.Replace(k, []byte{byte(key + 1)}, func(yield func(k, v []byte) bool) {
				yield(k, binary.LittleEndian.AppendUint64(nil, seen))
			}); err != nil {
				t.Error(err)
				return
			}
		}
		if err := errors.Join(w.log.Sync(through), w.store.Commit(through),
			w.log.TruncateBefore(through+1)); err != nil {
			t.Error(err)
			return
		}
	}
}

func (w *live) close(t *testing.T) {
	t.Helper()
	w.stop.Store(true)
	w.work.Wait()
	if err := errors.Join(w.store.Close(), w.log.Close()); err != nil {
		t.Error(err)
	}
}

// whole checks what recovery would make of a checkpoint and a log: no gap between them, and the log
// reaches everything that the checkpoint has seen and that was acknowledged.
func whole(c *checkpoint.Store, l *wal.Log, acked uint64) error {
	through, seen := uint64(0), acked
	if c != nil {
		through = c.LSN()
		if err := c.Load(nil, nil, func(_, v []byte) error {
			seen = max(seen, binary.LittleEndian.Uint64(v))
			return nil
		}); err != nil {
			return err
		}
	}
	next := through + 1
	if err := l.Replay(through, func(lsn uint64, _ []byte) error {
		if lsn != next {
			return fmt.Errorf("record %d, not %d", lsn, next)
		}
		next++
		return nil
	}); err != nil {
		return err
	}
	if next <= seen {
		return fmt.Errorf("the log ends before record %d, though %d was seen", next, seen)
	}
	return nil
}

// TestViewOfARunningLog looks at a directory while records are appended, segments roll and
// checkpoints take the place of others: each view is whole, and holds what was acknowledged before
// it was opened. In the kernel's file system: what keeps a segment from being recycled while a
// view reads it are locks on open files.
func TestViewOfARunningLog(t *testing.T) {
	t.Chdir(t.TempDir())
	w := goLive(t, vfs.Default)
	defer w.close(t)
	testwait.Until(t, "a checkpoint shortened the log", func() bool { return w.store.LSN() > 0 && w.log.First() > 1 })
	views := 60
	if testing.Short() {
		views = 15
	}
	for n := range views {
		acked := w.acked.Load()
		v := view(t, w.fs)
		l, err := v.Log(quiet)
		if err != nil {
			t.Fatalf("view %d: %v", n, err)
		}
		c, err := v.Checkpoint(l, quiet)
		if err != nil {
			t.Fatalf("view %d: %v", n, err)
		}
		if err := whole(c, l, acked); err != nil {
			t.Fatalf("view %d: %v", n, err)
		}
		if err := errors.Join(c.Close(), l.Close(), v.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCopyOfARunningLog: a copy is whole, holds what was acknowledged before, and a log can be
// started on it.
func TestCopyOfARunningLog(t *testing.T) {
	t.Chdir(t.TempDir())
	w := goLive(t, vfs.Default)
	var acked []uint64
	copies := 2
	if testing.Short() {
		copies = 1
	}
	for n := range copies {
		testwait.Until(t, "there is a checkpoint", func() bool { return w.store.LSN() > uint64(n) })
		acked = append(acked, w.acked.Load())
		v := view(t, w.fs)
		if err := Copy(v, fmt.Sprint("copy", n), quiet, new(Copied)); err != nil {
			t.Fatalf("copy %d: %v", n, err)
		}
		v.Close()
	}
	w.close(t)
	for n, acked := range acked {
		target := fmt.Sprint("copy", n)
		l, c := openBoth(t, target, w.fs)
		if err := whole(c, l, acked); err != nil {
			t.Errorf("copy %d: %v", n, err)
		}
		if err := l.Start(nil); err != nil {
			t.Fatal(err)
		}
		if commit(t, l, "goes on") <= acked {
			t.Errorf("copy %d begins again with old numbers", n)
		}
		if err := errors.Join(c.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
}

// A copy is durable when it is made. A checkpoint that becomes several tables stays the same, as do
// its secret and its LSN, and the records after it keep their numbers.
func TestCopyKeepsEverything(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l, c := startBoth(t, dir, fs)
	for _, r := range []string{"a", "b", "c"} {
		commit(t, l, r)
	}
	var pairs []string
	size := 2 << 20 // two fill a table
	if testing.Short() {
		size = 100
	}
	for key := range 3 {
		pairs = append(pairs, string(rune('a'+key)), strings.Repeat(fmt.Sprint(key), size))
	}
	if err := c.Replace(nil, nil, func(yield func(k, v []byte) bool) {
		for i := 0; i < len(pairs) && yield([]byte(pairs[i]), []byte(pairs[i+1])); i += 2 {
		}
	}); err != nil {
		t.Fatal(err)
	}
	secret, err := c.Secret(func() []byte { return []byte("secret") })
	if err := errors.Join(err, c.Commit(2), c.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	v := view(t, fs)
	defer v.Close()
	var copied, walked Copied
	if err := Copy(v, "copy", quiet, &copied); err != nil {
		t.Fatal(err)
	}
	if copied.Items.Load() != 3 || copied.Records.Load() != 1 {
		t.Errorf("%d items, %d records", copied.Items.Load(), copied.Records.Load())
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	back, err := OpenView("copy", crashed)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := back.Walk(quiet, &walked); err != nil || walked.Items.Load() != 3 ||
		walked.Records.Load() != 1 || walked.Bytes.Load() != copied.Bytes.Load() {
		t.Errorf("read back: %d items, %d records, %v", walked.Items.Load(), walked.Records.Load(), err)
	}
	copyLog, again := openBoth(t, "copy", crashed)
	defer copyLog.Close()
	defer again.Close()
	if again.ID() == c.ID() || again.ID() != copyLog.ID() {
		t.Errorf("the copy's id is %s, the copied one's %s", again.ID(), c.ID())
	}
	var got []string
	if err := again.Load(nil, nil, func(k, v []byte) error {
		got = append(got, string(k), string(v))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, pairs) || again.LSN() != 2 {
		t.Errorf("%d pairs as of %d", len(got)/2, again.LSN())
	}
	if got, err := again.Secret(nil); err != nil || !slices.Equal(got, secret) {
		t.Errorf("secret %q, %v", got, err)
	}
}

// The moment in which a checkpoint comes between the old one and its segments, forced. The log's
// own moments are in wal's TestReaderMeetsTheWriter.
func TestViewMeetsACheckpoint(t *testing.T) {
	mem := vfs.NewMem()
	w := &live{fs: mem}
	w.log, w.store = startBoth(t, dir, mem)
	spread := func() {
		for range 30 {
			commit(t, w.log, strings.Repeat("r", 1200))
		}
		through := w.log.Appended()
		if err := errors.Join(w.store.Commit(through),
			w.log.TruncateBefore(through+1)); err != nil {
			t.Fatal(err)
		}
	}
	spread()
	lists := 0 // of the directory itself: for the stamp, then to open the segments
	fs := faultfs.Hook(mem, func(op errorfs.Op) bool {
		if op.Kind == errorfs.OpList && op.Path == dir {
			lists++
		}
		return lists == 2
	}, spread)
	v := view(t, fs)
	l, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Checkpoint(l, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := whole(c, l, w.acked.Load()); err != nil || lists < 4 {
		t.Errorf("%v after %d looks", err, lists)
	}
	if err := errors.Join(c.Close(), l.Close(), v.Close(), w.store.Close(),
		w.log.Close()); err != nil {
		t.Error(err)
	}
}

// Damage is not copied.
func TestCopyRefusesDamage(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	for _, r := range []string{"a", "b", "c"} {
		commit(t, l, r)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite(dir+"/00000000000000000001.wal", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	// A segment's header has 64 bytes, the first block 48 with padding, a block's header 40.
	if _, err := f.WriteAt([]byte{0xff}, 64+48+40); err != nil {
		t.Fatal(err)
	}
	f.Close()
	v := view(t, fs)
	defer v.Close()
	var corrupt *wal.CorruptionError
	if err := Copy(v, "copy", quiet, new(Copied)); !errors.As(err, &corrupt) {
		t.Errorf("%v", err)
	}
}

// A view of a log and a checkpoint writes nothing, and has no way to.
func TestViewOnlyReads(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	commit(t, l, "x")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := segments(t, fs)
	v := view(t, fs)
	defer v.Close()
	if v.Empty() || v.Bytes() != small(fs).SegmentBytes+controlBytes {
		t.Errorf("empty: %v, %d bytes", v.Empty(), v.Bytes())
	}
	seen, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := seen.Start(nil); !errors.Is(err, readonly.Err) {
		t.Errorf("Start: %v", err)
	}
	seen.Close()
	if after := segments(t, fs); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("%d files, now %d", len(before), len(after))
	}
}

// TestNothingIsRecycledUnderAReader: what a view has opened stays what it was, however far the log
// goes on.
func TestNothingIsRecycledUnderAReader(t *testing.T) {
	t.Chdir(t.TempDir())
	l := start(t, small(vfs.Default))
	defer l.Close()
	for n := range 60 {
		commit(t, l, fmt.Sprint("old ", n, strings.Repeat(".", 1200)))
	}
	v := view(t, vfs.Default)
	rollAndTruncate(t, l, 200, 5)
	look, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := look.Replay(0, func(_ uint64, record []byte) error {
		if n < 60 && !strings.HasPrefix(string(record), fmt.Sprint("old ", n)) {
			return fmt.Errorf("record %d is %.20q", n+1, record)
		}
		n++
		return nil
	}); err != nil || n < 60 {
		t.Errorf("%d records, %v", n, err)
	}
	look.Close()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	rollAndTruncate(t, l, 200, 5)
	if l.First() < 300 {
		t.Errorf("the log begins with %d", l.First())
	}
}
