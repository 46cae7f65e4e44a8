package wal

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

	"rollcall/internal/testwait"
)

var quiet = slog.New(slog.DiscardHandler)

func view(t testing.TB, fs vfs.FS) *View {
	t.Helper()
	v, err := OpenView(dir, fs)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// surveyOf reads the log of a view, from its first record on.
func surveyOf(t testing.TB, fs vfs.FS) (Survey, []string, error) {
	t.Helper()
	v := view(t, fs)
	defer v.Close()
	l, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var records []string
	err = l.Replay(max(l.First(), 1)-1, func(_ uint64, r []byte) error {
		records = append(records, string(r))
		return nil
	})
	return l.Survey(), records, err
}

func TestSurvey(t *testing.T) {
	records := numbered(60, 1200)
	segments := written(t, false, records...)
	last := uint64(len(segments))
	for last > 1 && allZero(segments[last]) {
		last--
	}
	_, end := blocksIn(segments[last], last)
	segments[last][end+3] = 1
	s, got, err := surveyOf(t, disk(t, segments))
	if err != nil || !slices.Equal(got, records) || s.Next != 61 || s.TornBytes != 4 || len(s.Segments) != int(last) {
		t.Fatalf("%d records, %+v, %v", len(got), s, err)
	}
	next, sum := uint64(1), uint64(0)
	for i, seg := range s.Segments {
		offsets, end := blocksIn(segments[seg.Number], seg.Number)
		if seg.Number != uint64(i+1) || seg.First != next || seg.Last+1-seg.First != seg.Records || seg.Blocks != len(offsets) ||
			seg.Used != end || seg.Bytes != int64(len(segments[seg.Number])) || !seg.Read || seg.Durable != max(seg.First, seg.Last)-1 {
			t.Errorf("%+v, %d blocks to %d", seg, len(offsets), end)
		}
		next, sum = seg.Last+1, sum+seg.Records
	}
	if sum != 60 {
		t.Errorf("%d records in all segments", sum)
	}
}

// A view shows what is before the damage, and the damage.
func TestSurveyOfDamage(t *testing.T) {
	segments := written(t, true, numbered(60, 1200)...)
	flipped := maps.Clone(segments)
	flipped[2] = slices.Clone(segments[2])
	offsets, _ := blocksIn(flipped[2], 2)
	flipped[2][offsets[3]+blockHeaderBytes+9] ^= 1
	header := maps.Clone(segments)
	header[2] = slices.Clone(segments[2])
	header[2][20] ^= 1
	missing := maps.Clone(segments)
	delete(missing, 2)
	for name, damaged := range map[string]map[uint64][]byte{"payload": flipped, "header": header, "missing": missing} {
		s, _, err := surveyOf(t, disk(t, damaged))
		var c *CorruptionError
		if !errors.As(err, &c) || c.Segment != 2 || (name == "payload" && (c.Offset != offsets[3] || c.LSN != s.Next)) {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.Segments) == 0 || s.Segments[0].Records == 0 || s.Next <= s.Segments[0].Last {
			t.Errorf("%s: %+v", name, s)
		}
	}
	newer := maps.Clone(segments)
	newer[2] = slices.Clone(segments[2])
	binary.LittleEndian.PutUint32(newer[2][8:], formatVersion+1)
	v := view(t, disk(t, newer))
	defer v.Close()
	var version *VersionError
	if _, err := v.Log(quiet); !errors.As(err, &version) {
		t.Errorf("a later version: %v", err)
	}
}

// live is a log with a checkpoint beside it that keeps the highest LSN it has seen, while appenders work.
type live struct {
	fs    vfs.FS
	log   *Log
	store *Checkpoint
	acked atomic.Uint64
	stop  atomic.Bool
	work  sync.WaitGroup
}

func goLive(t *testing.T, fs vfs.FS) *live {
	t.Helper()
	w := &live{fs: fs, log: start(t, small(fs))}
	var err error
	if w.store, err = OpenCheckpoint(dir+"/"+CheckpointDir, CheckpointOptions{FS: fs, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		w.work.Go(func() { w.append(i) })
	}
	w.work.Go(func() { w.checkpoint(t) })
	return w
}

func (w *live) append(writer int) {
	for n := 0; !w.stop.Load(); n++ {
		record := tagged(writer, n, n%300)
		if w.log.Reserve(len(record), time.Minute) != nil {
			return
		}
		lsn := w.log.Append(record)
		if w.log.Wait(lsn) != nil {
			return
		}
		for old := w.acked.Load(); old < lsn && !w.acked.CompareAndSwap(old, lsn); old = w.acked.Load() {
		}
	}
}

// checkpoint takes one checkpoint after the other, as the engine does: what the store holds may be newer than its LSN, and
// the log is synced past it before.
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
		if err := errors.Join(w.log.Sync(through), w.store.Commit(through), w.log.TruncateBefore(through+1)); err != nil {
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

// whole checks what recovery would make of a checkpoint and a log: no gap between them, and the log reaches everything that
// the checkpoint has seen and that was acknowledged.
func whole(c *Checkpoint, l *Log, acked uint64) error {
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

// TestViewOfARunningLog looks at a directory while records are appended, segments roll and checkpoints take the place of
// others: each view is whole, and holds what was acknowledged before it was opened. In the kernel's file system: what keeps a
// segment from being used again while a view reads it are locks on open files.
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
		c, err := v.Checkpoint(quiet)
		if err != nil {
			t.Fatalf("view %d: %v", n, err)
		}
		l, err := v.Log(quiet)
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

// TestCopyOfARunningLog: a copy is whole, holds what was acknowledged before, and a log can be started on it.
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
		l, err := Open(target, small(w.fs))
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenCheckpoint(target+"/"+CheckpointDir, CheckpointOptions{FS: w.fs, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
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

// A copy is durable when it is made. A checkpoint that becomes several tables stays the same, as do its secret and its LSN, and
// the records after it keep their numbers.
func TestCopyKeepsEverything(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := start(t, small(fs))
	for _, r := range []string{"a", "b", "c"} {
		commit(t, l, r)
	}
	c, err := OpenCheckpoint(dir+"/"+CheckpointDir, CheckpointOptions{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	size := copyBytes / 2 // two fill a table
	if testing.Short() {
		size = 100
	}
	for key := range 3 {
		pairs = append(pairs, string(rune('a'+key)), strings.Repeat(fmt.Sprint(key), size))
	}
	replace(t, c, "", "", pairs...)
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
	if err := back.Walk(quiet, &walked); err != nil || walked.Items.Load() != 3 || walked.Records.Load() != 1 || walked.Bytes.Load() != copied.Bytes.Load() {
		t.Errorf("read back: %d items, %d records, %v", walked.Items.Load(), walked.Records.Load(), err)
	}
	again, err := OpenCheckpoint("copy/"+CheckpointDir, CheckpointOptions{FS: crashed, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := content(t, again, "", ""); !slices.Equal(got, pairs) || again.LSN() != 2 {
		t.Errorf("%d pairs as of %d", len(got)/2, again.LSN())
	}
	if got, err := again.Secret(nil); err != nil || !slices.Equal(got, secret) {
		t.Errorf("secret %q, %v", got, err)
	}
}

// hookFS calls a function once, before the first operation that matches.
func hookFS(fs vfs.FS, match func(errorfs.Op) bool, do func()) vfs.FS {
	var done atomic.Bool
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if match(op) && !done.Swap(true) {
			do()
		}
		return nil
	}))
}

// readOf matches a read of a segment behind the first window.
func readOf(number uint64, from int64) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileReadAt && op.Path == segmentFile(number) && op.Offset >= from
	}
}

// spread commits records until a log has so many bytes more.
func spread(t *testing.T, l *Log, bytes int) {
	t.Helper()
	record := strings.Repeat("x", 50_000)
	for ; bytes > 0; bytes -= len(record) {
		commit(t, l, record)
	}
}

// The moments in which a server that runs looks damaged to one who reads beside it, each forced.
func TestViewMeetsTheWriter(t *testing.T) {
	large := func(fs vfs.FS) Options {
		o := small(fs)
		o.BufferBytes, o.SegmentBytes = windowBytes/2, 8*windowBytes // the first segment has two windows, the second four
		return o
	}
	t.Run("a promise behind a block that was not there", func(t *testing.T) {
		mem := vfs.NewMem()
		l := start(t, large(mem))
		commit(t, l, "first")
		fs := hookFS(mem, readOf(1, windowBytes/2), func() { spread(t, l, 3*windowBytes/2) })
		s, records, err := surveyOf(t, fs)
		if err != nil || len(records) < 2 || s.Next != uint64(len(records)+1) {
			t.Errorf("%d records, %+v, %v", len(records), s, err)
		}
		closeLog(t, l)
	})
	t.Run("blocks behind a header that was not there", func(t *testing.T) {
		mem := vfs.NewMem()
		l := start(t, large(mem))
		commit(t, l, "first")
		testwait.Until(t, "segment 2 is prepared", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.prepared == 2
		})
		fs := hookFS(mem, readOf(2, windowBytes/2), func() { spread(t, l, 7*windowBytes/2) })
		if s, records, err := surveyOf(t, fs); err != nil || len(s.Segments) != 2 || s.Next != uint64(len(records)+1) {
			t.Errorf("%d records, %+v, %v", len(records), s, err)
		}
		closeLog(t, l)
	})
	t.Run("a segment begun while the one before it was looked at", func(t *testing.T) {
		segments := written(t, true, numbered(60, 1200)...)
		blank := maps.Clone(segments)
		blank[2], blank[3] = make([]byte, len(segments[2])), make([]byte, len(segments[3]))
		for n := uint64(4); len(blank[n]) > 0; n++ {
			delete(blank, n)
		}
		mem := disk(t, blank)
		fs := hookFS(mem, readOf(3, 0), func() {
			for n := uint64(2); n <= 3; n++ {
				f, err := mem.OpenReadWrite(segmentFile(n), vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.WriteAt(slices.Clone(segments[n]), 0)
				if err := errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
			}
		})
		if s, _, err := surveyOf(t, fs); err != nil || len(s.Segments) != 3 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a checkpoint between the old one and its segments", func(t *testing.T) {
		mem := vfs.NewMem()
		w := &live{fs: mem, log: start(t, small(mem))}
		var err error
		if w.store, err = OpenCheckpoint(dir+"/"+CheckpointDir, CheckpointOptions{FS: mem, Logger: quiet}); err != nil {
			t.Fatal(err)
		}
		spread := func() {
			for _, r := range numbered(30, 1200) {
				commit(t, w.log, r)
			}
			through := w.log.Appended()
			if err := errors.Join(w.store.Commit(through), w.log.TruncateBefore(through+1)); err != nil {
				t.Fatal(err)
			}
		}
		spread()
		lists := 0 // of the directory itself: for the stamp, then to open the segments
		fs := hookFS(mem, func(op errorfs.Op) bool {
			if op.Kind == errorfs.OpList && op.Path == dir {
				lists++
			}
			return lists == 2
		}, spread)
		v := view(t, fs)
		c, err := v.Checkpoint(quiet)
		if err != nil {
			t.Fatal(err)
		}
		l, err := v.Log(quiet)
		if err != nil {
			t.Fatal(err)
		}
		if err := whole(c, l, w.acked.Load()); err != nil || lists < 4 {
			t.Errorf("%v after %d looks", err, lists)
		}
		if err := errors.Join(c.Close(), l.Close(), v.Close(), w.store.Close(), w.log.Close()); err != nil {
			t.Error(err)
		}
	})
}

// Damage is not copied.
func TestCopyRefusesDamage(t *testing.T) {
	segments := written(t, true, "a", "b", "c")
	offsets, _ := blocksIn(segments[1], 1)
	segments[1][offsets[1]+blockHeaderBytes] ^= 1
	fs := disk(t, segments)
	v := view(t, fs)
	defer v.Close()
	if err := Copy(v, "copy", quiet, new(Copied)); !isCorruption(err) {
		t.Errorf("%v", err)
	}
}

// A view of a log and a checkpoint writes nothing, and has no way to.
func TestViewOnlyReads(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	commit(t, l, "x")
	closeLog(t, l)
	before := files(t, fs)
	v := view(t, fs)
	defer v.Close()
	seen, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := seen.Start(nil); !errors.Is(err, errReadOnly) {
		t.Errorf("Start: %v", err)
	}
	seen.Close()
	if after := files(t, fs); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("%d files, now %d", len(before), len(after))
	}
	f, err := v.Open(segmentFile(1))
	if err != nil {
		t.Fatal(err)
	}
	_, written := f.Write([]byte("x"))
	_, writtenAt := f.WriteAt([]byte("x"), 0)
	_, synced := f.SyncTo(1)
	_, created := v.Create("new", vfs.WriteCategoryUnspecified)
	_, opened := v.OpenReadWrite(segmentFile(1), vfs.WriteCategoryUnspecified)
	_, reused := v.ReuseForWrite(segmentFile(1), "new", vfs.WriteCategoryUnspecified)
	for name, err := range map[string]error{"Write": written, "WriteAt": writtenAt, "SyncTo": synced, "Create": created,
		"OpenReadWrite": opened, "ReuseForWrite": reused, "Preallocate": f.Preallocate(0, 1), "Sync": f.Sync(), "SyncData": f.SyncData(),
		"Link": v.Link(segmentFile(1), "new"), "Remove": v.Remove(segmentFile(1)), "RemoveAll": v.RemoveAll(dir),
		"Rename": v.Rename(segmentFile(1), "new"), "MkdirAll": v.MkdirAll("new", 0o755)} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
