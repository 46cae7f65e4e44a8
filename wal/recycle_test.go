package wal

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// recycledSegments counts the segments of a directory that were another before, and the files that
// wait for that.
func recycledSegments(t *testing.T, fs vfs.FS) (recycled, waiting int) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, recycledSuffix) {
			waiting++
		}
	}
	l := open(t, small(fs))
	defer l.Close()
	for _, s := range l.segments.list() {
		if s.recycled {
			recycled++
		}
	}
	return recycled, waiting
}

// rollAndTruncate commits n records, and takes off what lies more than keep behind. It returns
// through where.
func rollAndTruncate(t *testing.T, l *Log, n, keep int) (through uint64) {
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

// TestSegmentsAreRecycled: a log that is truncated as it grows needs no new files, keeps no more
// than it may (W7), and is read as any other.
func TestSegmentsAreRecycled(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := start(t, small(mem))
	through := rollAndTruncate(t, l, 300, 40)
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	stats := l.Stats()
	if most := int64(stats.Segments+maxRecycled) * l.o.SegmentBytes; stats.SegmentBytes > most {
		t.Errorf("%d bytes in %d segments", stats.SegmentBytes, stats.Segments)
	}
	if n := len(files(t, mem)); n > stats.Segments+1 {
		t.Errorf("%d files of %d segments and one that is prepared", n, stats.Segments)
	}
	last := l.Appended()
	closeLog(t, l)
	if recycled, waiting := recycledSegments(t, mem); recycled == 0 || waiting != 0 {
		t.Errorf("after Close %d segments were recycled, %d files wait", recycled, waiting)
	}
	for name, fs := range map[string]vfs.FS{"closed": mem, "crashed": crashed} {
		records, err := read(fs, through)
		if err != nil || through+uint64(len(records)) != last {
			t.Errorf("%s: %d records behind %d, want them through %d: %v", name, len(records), through, last, err)
		}
		if s, _, err := surveyOf(t, fs); err != nil || s.TornBytes != 0 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		closeLog(t, start(t, small(fs)))
		if _, waiting := recycledSegments(t, fs); waiting != 0 {
			t.Errorf("%s: %d waiting files after a start", name, waiting)
		}
	}
}

// However many segments go at once, no more than maxRecycled files are kept (W7).
func TestRecycledFilesAreBounded(t *testing.T) {
	mem := vfs.NewMem()
	l := start(t, small(mem))
	defer closeLog(t, l)
	for range 2 * maxRecycled {
		for range 4 { // fill a segment
			commit(t, l, strings.Repeat("r", 3900))
		}
	}
	if err := l.TruncateBefore(l.Appended()); err != nil || l.Stats().Segments > 2 {
		t.Fatalf("%d segments, %v", l.Stats().Segments, err)
	}
	names, err := mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, name := range names {
		if strings.HasSuffix(name, recycledSuffix) {
			kept++
		}
	}
	if kept < maxRecycled/2 || kept > maxRecycled {
		t.Errorf("%d files are kept", kept)
	}
}

// TestTornTailOfARecycledSegment: what the file held before is no torn tail, a block that was begun
// is.
func TestTornTailOfARecycledSegment(t *testing.T) {
	old := written(t, true, "old a", "old b", "old c")[1]
	fresh := written(t, false, "new a", "new b")[1]
	offsets, end := blocksIn(fresh, 1)
	header := segmentHeader{number: 1, first: 1, recycled: true, id: idOf(t, fresh)}.encode()
	recycled := append(append(header, fresh[segmentHeaderBytes:end]...), old[end:]...)
	for name, c := range map[string]struct {
		damage func(b []byte)
		want   int
		torn   bool
	}{
		"whole":                 {func([]byte) {}, 2, false},
		"a payload is lost":     {func(b []byte) { clear(b[offsets[1]+blockHeaderBytes : end]) }, 1, true},
		"a header is lost":      {func(b []byte) { clear(b[offsets[1]:][:blockHeaderBytes]) }, 1, false},
		"the whole log is lost": {func(b []byte) { clear(b[offsets[0]:end]) }, 0, false},
	} {
		b := append([]byte(nil), recycled...)
		// A block of the old life, under another number.
		copy(b[end:], old[offsets[0]:])
		c.damage(b)
		fs := disk(t, map[uint64][]byte{1: b})
		if got, err := read(fs, 0); err != nil || len(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if s, _, err := surveyOf(t, fs); err != nil || s.TornBytes > 0 != c.torn {
			t.Errorf("%s: %d torn bytes, %v", name, s.TornBytes, err)
		}
	}
}

// TestRecycledFilesTakenAway: a file that was removed is made anew, at its whole size.
func TestRecycledFilesTakenAway(t *testing.T) {
	mem := vfs.NewMem()
	l := start(t, small(mem))
	var through uint64
	for range 20 {
		through = rollAndTruncate(t, l, 30, 25)
		names, err := mem.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, recycledSuffix) {
				_ = mem.Remove(dir + "/" + name) // it may be in use by now
			}
		}
	}
	last := l.Appended()
	closeLog(t, l)
	if records, err := read(mem, through); err != nil || through+uint64(len(records)) != last {
		t.Errorf("%d records behind %d, want them through %d: %v", len(records), through, last, err)
	}
	for n, b := range files(t, mem) {
		if int64(len(b)) != l.o.SegmentBytes {
			t.Errorf("segment %d has %d bytes", n, len(b))
		}
	}
}

// TestCrashWhileSegmentsAreRecycled is TestCrash for a log that is truncated all the time: what was
// durable and not taken off is there, and no trace of an earlier life of a file is taken for a
// record or for damage.
func TestCrashWhileSegmentsAreRecycled(t *testing.T) {
	rng := testseed.Rand(t)
	recycled := 0
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		for _, percent := range []int{0, 30, 100} {
			fs, through := vfs.NewCrashableMem(), uint64(0)
			for life := range 5 {
				cfg := vfs.CrashCloneCfg{
					UnsyncedDataPercent: percent,
					RNG:                 rand.New(rand.NewPCG(rng.Uint64(), 0)),
				}
				fs, through = crashWhileTruncating(t, fs, mode, life, through, cfg)
				n, _ := recycledSegments(t, fs)
				recycled += n
			}
		}
	}
	if recycled == 0 {
		t.Error("no crash met a segment that was recycled")
	}
}

// crashWhileTruncating continues a log that was truncated through an LSN. It returns the file
// system after the crash, and through where it was truncated.
func crashWhileTruncating(
	t *testing.T, fs *vfs.MemFS, mode SyncMode, life int, through uint64, cfg vfs.CrashCloneCfg,
) (*vfs.MemFS, uint64) {
	o := small(fs)
	o.Sync, o.SyncInterval = mode, time.Millisecond
	l := open(t, o)
	if err := l.Replay(through, func(uint64, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	c := crewOf(l, 4, life)
	var truncated atomic.Uint64
	truncated.Store(through)
	c.work.Go(func() {
		for !c.stop.Load() {
			if d := l.Durable(); d > truncated.Load()+100 {
				truncated.Store(d - 50)
				if err := l.TruncateBefore(d - 49); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	testwait.Until(t, "there are some records", func() bool { return l.Stats().Records >= 1500 })
	durable := c.durable(mode)
	crashed := fs.CrashClone(cfg)
	most := truncated.Load() // in the crashed one it was that at most
	c.end()
	closeLog(t, l)

	if through = firstOf(t, crashed) - 1; through > most {
		t.Fatalf("the log begins behind %d, it was truncated through %d at most", through, most)
	}
	got, err := read(crashed, through)
	if err != nil {
		t.Fatalf("sync=%v, unsynced=%d%%, life %d: %v", mode, cfg.UnsyncedDataPercent, life, err)
	}
	c.check(t, durable, got, through)
	return crashed, through
}

// truncateUntilFailure is runUntilFailure for a log that is truncated as it grows.
func truncateUntilFailure(o Options) (acked, through int) {
	l, err := Open(dir, o)
	if err != nil {
		return 0, 0
	}
	defer l.Close()
	if l.Start(nil) != nil {
		return 0, 0
	}
	for n := range 80 {
		record := tagged(0, n, 1500)
		if l.Reserve(len(record), time.Second) != nil ||
			acknowledge(l, l.Append(record, 0)) != nil {
			break
		}
		if acked++; acked > 10 {
			through = acked - 10
			_ = l.TruncateBefore(uint64(through) + 1)
		}
	}
	return acked, through
}
