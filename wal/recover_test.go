package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/dirsync"
	"rollcall/internal/testlog"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// written returns the segments of a log with these records, each a block of its own, as Close
// leaves them or, unclosed, as a crash does. It rolls as often as they need.
func written(t testing.TB, closed bool, records ...string) map[uint64][]byte {
	t.Helper()
	fs := vfs.NewCrashableMem()
	l := start(t, small(fs))
	for _, r := range records {
		commit(t, l, r)
	}
	if closed {
		closeLog(t, l)
		return files(t, fs)
	}
	crashed := files(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	closeLog(t, l)
	return crashed
}

func numbered(n, padding int) []string {
	var records []string
	for i := range n {
		records = append(records, string(tagged(0, i, padding)))
	}
	return records
}

func isCorruption(err error) bool {
	var corruption *CorruptionError
	return errors.As(err, &corruption)
}

// A crash leaves any prefix of the last segment, and zeros behind it. What lies wholly before the
// cut is read, the rest is a torn tail: never an error, never half a block. And the log can be
// started on what is left, and read again. A file that is shorter than it was made is no trace of a
// crash.
func TestCutAtEveryByte(t *testing.T) {
	records := []string{"first", "", "third record", "4"}
	whole := written(t, false, records...)[1]
	offsets, end := blocksIn(whole, 1)
	if len(offsets) != len(records) {
		t.Fatalf("%d blocks", len(offsets))
	}
	for cut := range end + 1 {
		complete := 0 // blocks whose payload is before the cut
		for i, at := range offsets {
			if at+blockHeaderBytes+recordOverhead+int64(len(records[i])) <= cut {
				complete = i + 1
			}
		}
		zeroed := bytes.Clone(whole)
		clear(zeroed[cut:])
		segments := map[string][]byte{"zeroed": zeroed, "short": whole[:cut]}
		if cut >= segmentHeaderBytes {
			if _, err := read(disk(t, map[uint64][]byte{1: whole[:cut]}), 0); !isCorruption(err) {
				t.Fatalf("truncated at %d: %v", cut, err)
			}
			segments["short"] = resized(t, whole[:cut], 1)
		}
		for name, b := range segments {
			fs := disk(t, map[uint64][]byte{1: b})
			l := open(t, small(fs))
			var got []string
			if err := l.Replay(0, func(_ uint64, r []byte) error {
				got = append(got, string(r))
				return nil
			}); err != nil {
				t.Fatalf("%s at %d: %v", name, cut, err)
			}
			// Zeroing may leave a block whole that ends with zeros.
			if len(got) < complete || !slices.Equal(got, records[:len(got)]) ||
				name == "short" && len(got) != complete {
				t.Fatalf("%s at %d: got %q, want %d", name, cut, got, complete)
			}
			if err := l.Start(nil); err != nil {
				t.Fatalf("%s at %d: Start: %v", name, cut, err)
			}
			if lsn := commit(t, l, "more"); lsn != uint64(len(got)+1) {
				t.Fatalf("%s at %d: went on with %d", name, cut, lsn)
			}
			closeLog(t, l)
			if again, err := read(fs, 0); err != nil || !slices.Equal(again, append(got, "more")) {
				t.Fatalf("%s at %d: second recovery: %q, %v", name, cut, again, err)
			}
		}
	}
}

// The rule for a flipped bit in a log that was closed: an error, or every record. The closing
// block's promise makes it so: without it, damage to the last batch would look like a torn tail.
func TestFlipEveryBitOfAClosedLog(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncNever} {
		t.Run(mode.String(), func(t *testing.T) { flipEveryBit(t, mode) })
	}
}

func flipEveryBit(t *testing.T, mode SyncMode) {
	records := []string{"first", "", "third record", "4"}
	fs := vfs.NewMem()
	o := small(fs)
	o.Sync = mode
	l := start(t, o)
	for _, r := range records {
		commit(t, l, r)
	}
	closeLog(t, l)
	segments := files(t, fs)
	_, end := blocksIn(segments[1], 1)
	segments[1] = resized(t, segments[1][:end+64], 1)
	checkFlips(t, segments, records, func(yield func(uint64, int) bool) {
		for bit := range len(segments[1]) * 8 {
			if !yield(1, bit) {
				return
			}
		}
	})
}

func TestFlipBitsOfManySegments(t *testing.T) {
	rng := testseed.Rand(t)
	records := numbered(30, 1200)
	segments := written(t, true, records...)
	if len(segments) < 2 {
		t.Fatalf("%d segments", len(segments))
	}
	checkFlips(t, segments, records, func(yield func(uint64, int) bool) {
		for number, b := range segments {
			for bit := range (segmentHeaderBytes + blockHeaderBytes) * 8 {
				if !yield(number, bit) {
					return
				}
			}
			for range 300 {
				if !yield(number, rng.IntN(len(b)*8)) {
					return
				}
			}
		}
	})
}

func checkFlips(
	t *testing.T, segments map[uint64][]byte, records []string, flips func(func(uint64, int) bool),
) {
	found := 0
	for number, bit := range flips {
		damaged := maps.Clone(segments)
		damaged[number] = bytes.Clone(damaged[number])
		damaged[number][bit/8] ^= 1 << (bit % 8)
		got, err := read(disk(t, damaged), 0)
		var version *VersionError
		switch {
		case err == nil && !slices.Equal(got, records):
			t.Fatalf("segment %d bit %d: silently %d of %d records", number, bit, len(got), len(records))
		case err != nil && !isCorruption(err) && !errors.As(err, &version):
			t.Fatalf("segment %d bit %d: %v", number, bit, err)
		case err != nil:
			found++
		}
	}
	if found == 0 {
		t.Error("no flip was ever noticed")
	}
}

// Without Close, a flip in the last block cannot be told from a crash; one in any earlier block
// can.
func TestFlipAfterCrash(t *testing.T) {
	records := []string{"a", "b", "c"}
	segments := written(t, false, records...)
	offsets, end := blocksIn(segments[1], 1)
	for bit := offsets[0] * 8; bit < end*8; bit++ {
		b := bytes.Clone(segments[1])
		b[bit/8] ^= 1 << (bit % 8)
		got, err := read(disk(t, map[uint64][]byte{1: b}), 0)
		last := bit/8 >= offsets[2]
		switch {
		case err == nil && slices.Equal(got, records): // padding
		case last && err == nil && slices.Equal(got, records[:2]):
		case !last && isCorruption(err):
		default:
			t.Fatalf("bit %d: %q, %v", bit, got, err)
		}
	}
}

func TestCorruptionSaysWhere(t *testing.T) {
	segments := written(t, true, "a", "b", "c")
	offsets, _ := blocksIn(segments[1], 1)
	segments[1][offsets[1]+blockHeaderBytes] ^= 1
	got, err := read(disk(t, segments), 0)
	var c *CorruptionError
	if !errors.As(err, &c) || c.Segment != 1 || c.Offset != offsets[1] || c.LSN != 2 ||
		c.Path != segmentFile(1) || c.Dir != dir {
		t.Fatalf("%v", err)
	}
	if !errors.Is(err, errPayload) || !errors.Is(err, errPromised) || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
	for _, want := range []string{segmentFile(1), "offset", "records before it are intact"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestTornTailIsLoggedOnce(t *testing.T) {
	segments := written(t, false, "a", "b")
	_, end := blocksIn(segments[1], 1)
	segments[1][end+3] = 1 // the first sector of a block that never arrived whole
	fs := disk(t, segments)
	var out testlog.Output
	o := small(fs)
	o.Logger = out.Logger()
	for range 2 {
		l := start(t, o)
		closeLog(t, l)
	}
	if n := strings.Count(out.String(), "torn tail"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
	for _, want := range []string{"segment=1", fmt.Sprintf("offset=%d", end), "bytes=4"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in %s", want, out.String())
		}
	}
}

// A start that is refused has cut nothing, and does not say so.
func TestTornTailOfARefusedStart(t *testing.T) {
	segments := written(t, false, "a", "b")
	_, end := blocksIn(segments[1], 1)
	segments[1][end+3] = 1
	var out testlog.Output
	o := small(disk(t, segments))
	o.Logger = out.Logger()
	if _, err := readWith(o, 5); !isCorruption(err) || strings.Contains(out.String(), "cut") {
		t.Errorf("%v, logged %s", err, out.String())
	}
}

func TestMissingSegments(t *testing.T) {
	records := numbered(60, 1200)
	segments := written(t, true, records...)
	if len(segments) < 3 {
		t.Fatalf("%d segments", len(segments))
	}
	without := func(n uint64) map[uint64][]byte {
		s := maps.Clone(segments)
		delete(s, n)
		return s
	}
	if _, err := read(disk(t, without(2)), 0); !isCorruption(err) ||
		!strings.Contains(err.Error(), segmentFile(2)+": the file is missing") {
		t.Errorf("without the second: %v", err)
	}
	if _, err := read(disk(t, without(1)), 0); !isCorruption(err) {
		t.Errorf("without the first, from the start: %v", err)
	}
	// What a checkpoint covers may be missing.
	l := open(t, small(disk(t, without(1))))
	first := l.First()
	closeLog(t, l)
	if got, err := read(disk(t, without(1)), first-1); err != nil ||
		!slices.Equal(got, records[first-1:]) {
		t.Errorf("without the first, behind it: %d records, %v", len(got), err)
	}
	// A log that ends before what the checkpoint holds is not the checkpoint's log.
	if _, err := read(disk(t, segments), uint64(len(records))+1); !isCorruption(err) {
		t.Errorf("replayed onto something newer: %v", err)
	}
}

func TestBegin(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, small(fs))
	if err := l.Begin(41); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if lsn := commit(t, l, "x"); lsn != 42 {
		t.Errorf("LSN %d", lsn)
	}
	killed := small(fs.CrashClone(vfs.CrashCloneCfg{}))
	if _, err := Open(dir, killed); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a copy that was killed: %v", err)
	}
	l.Complete()
	closeLog(t, l)
	again := open(t, small(fs))
	if err := again.Begin(50); err == nil {
		t.Error("begun over a log that is there")
	}
	closeLog(t, again)
}

// A checkpoint without a segment is a log that was taken away, not a new one.
func TestLogGone(t *testing.T) {
	unbegun := disk(t, map[uint64][]byte{7: make([]byte, 4096)})
	for name, fs := range map[string]vfs.FS{"no segment": vfs.NewMem(), "none that was begun": unbegun} {
		_, err := read(fs, 41)
		var missing *MissingError
		if !errors.As(err, &missing) || missing.After != 41 || missing.Dir != dir {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range []string{dir, "record 41"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in: %v", name, want, err)
			}
		}
	}
}

// Start puts a new segment in the place of an empty one. A crash at any step of it leaves one of
// the two, and no gap.
func TestStartAlwaysLeavesASegment(t *testing.T) {
	records := numbered(60, 1200)
	for name, prepare := range map[string]func(l *Log){
		"the only one": func(l *Log) {},
		"with records before": func(l *Log) {
			for _, r := range records {
				commit(t, l, r)
			}
		},
		"truncated": func(l *Log) {
			for _, r := range records {
				commit(t, l, r)
			}
			if err := l.TruncateBefore(l.Appended() + 1); err != nil {
				t.Fatal(err)
			}
		},
	} {
		mem := vfs.NewCrashableMem()
		for range 2 { // the second one ends with an empty segment
			l := start(t, small(mem))
			if l.Appended() == 0 {
				prepare(l)
			}
			closeLog(t, l)
		}
		want, err := read(mem, firstOf(t, mem)-1)
		if err != nil {
			t.Fatal(err)
		}
		crashes := crashesOfStart(t, mem)
		for i, fs := range crashes {
			first := firstOf(t, fs)
			if got, err := read(fs, first-1); first == 0 || err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s, crash %d: the log begins with %d, %d records of %d, %v", name, i, first, len(got), len(want), err)
			}
		}
	}
}

// crashesOfStart starts the log of a file system and returns what a crash before each operation
// would have left.
func crashesOfStart(t *testing.T, mem *vfs.MemFS) (crashes []*vfs.MemFS) {
	t.Helper()
	var mu sync.Mutex // the preparer works already when Start returns
	l := start(t, small(errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 50, 100} {
			rng := rand.New(rand.NewPCG(uint64(len(crashes)), 0))
			cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}
			crashes = append(crashes, mem.CrashClone(cfg))
		}
		return nil
	}))))
	closeLog(t, l)
	return crashes
}

// firstOf returns the LSN of the first record that a file system's log holds or would hold, 0
// without a segment.
func firstOf(t *testing.T, fs vfs.FS) uint64 {
	t.Helper()
	l := open(t, small(fs))
	defer closeLog(t, l)
	return l.First()
}

// A valid block that belongs to another place or time is no block here (W6).
func TestStaleBlocks(t *testing.T) {
	old := written(t, true, "old a", "old b", "old c")[1]
	fresh := written(t, false, "new a")[1]
	_, end := blocksIn(fresh, 1)
	t.Run("of another segment", func(t *testing.T) {
		recycled := segmentHeader{number: 2, first: 4, id: idOf(t, old)}.encode()
		recycled = append(recycled, old[segmentHeaderBytes:]...)
		if got, err := read(disk(t, map[uint64][]byte{1: old, 2: recycled}), 0); err != nil ||
			len(got) != 3 {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("of another offset", func(t *testing.T) {
		offsets, _ := blocksIn(old, 1)
		moved := bytes.Clone(fresh)
		copy(moved[end+8:], old[offsets[1]:])
		if got, err := read(disk(t, map[uint64][]byte{1: moved}), 0); err != nil || len(got) != 1 {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("with another LSN", func(t *testing.T) {
		offsets, oldEnd := blocksIn(old, 1)
		doubled := bytes.Clone(old)
		var s headerSums
		h, _ := s.decode(old[offsets[2]:], 1, offsets[2])
		h.first++
		s.encode(doubled[offsets[2]:], h, 1, offsets[2])
		if _, err := read(disk(t, map[uint64][]byte{1: doubled[:oldEnd]}), 0); !isCorruption(err) {
			t.Errorf("a gap in the LSNs: %v", err)
		}
	})
}

func TestLostHeader(t *testing.T) {
	segments := written(t, false, "a")
	for name, damage := range map[string]func(b []byte){
		"blank":   func(b []byte) { clear(b[:segmentHeaderBytes]) },
		"flipped": func(b []byte) { b[20] ^= 1 },
	} {
		b := bytes.Clone(segments[1])
		damage(b)
		if _, err := read(disk(t, map[uint64][]byte{1: b}), 0); !errors.Is(err, errLostHeader) {
			t.Errorf("%s, with a block behind it: %v", name, err)
		}
		clear(b[segmentHeaderBytes:])
		if got, err := read(disk(t, map[uint64][]byte{1: segments[1], 2: b}), 0); name == "blank" &&
			(err != nil || len(got) != 1) {
			t.Errorf("%s, never begun: %q, %v", name, got, err)
		}
		begun := segmentHeader{number: 2, first: 1, id: idOf(t, segments[1])}.encode()
		if _, err := read(disk(t, map[uint64][]byte{1: b, 2: begun}), 0); !isCorruption(err) {
			t.Errorf("%s, in the middle: %v", name, err)
		}
	}
}

func TestRenamedSegment(t *testing.T) {
	segments := written(t, false, "a")
	if _, err := read(disk(t, map[uint64][]byte{2: segments[1]}), 0); !isCorruption(err) ||
		!errors.Is(err, errHeaderPlace) {
		t.Errorf("%v", err)
	}
}

// Restarting again and again must not pile up empty segments.
func TestRestartsReuseTheEmptySegment(t *testing.T) {
	fs := vfs.NewMem()
	for range 10 {
		l := start(t, small(fs))
		closeLog(t, l)
	}
	if n := len(files(t, fs)); n != 1 {
		t.Errorf("%d segments", n)
	}
}

func TestTruncateBefore(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	records := numbered(60, 1200)
	for _, r := range records {
		commit(t, l, r)
	}
	before := l.Stats().Segments
	if err := l.TruncateBefore(l.First() + 1); err != nil || l.First() != 1 ||
		l.Stats().Segments != before {
		t.Errorf("removed a segment that still has record %d: %v", l.First(), err)
	}
	if err := l.TruncateBefore(30); err != nil {
		t.Fatal(err)
	}
	first := l.First()
	if first <= 1 || first > 30 {
		t.Errorf("begins with %d", first)
	}
	if err := l.TruncateBefore(1 << 40); err != nil || l.Stats().Segments != 1 {
		t.Errorf("%d segments left, %v", l.Stats().Segments, err)
	}
	first = l.First()
	commit(t, l, "more")
	closeLog(t, l)
	if got, err := read(fs, first-1); err != nil ||
		!slices.Equal(got, append(records[first-1:], "more")) {
		t.Errorf("%d records from %d, %v", len(got), first, err)
	}
}

// After a crash at any moment everything that was durable is there, in its place, and what else is
// there is what was appended. Whatever survives, the log starts again and the same holds for the
// next crash. In SyncAlways what was acknowledged was durable; in no mode is the trace of a crash
// taken for damage.
func TestCrash(t *testing.T) {
	rng := testseed.Rand(t)
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		for _, percent := range []int{0, 30, 100} {
			t.Run(fmt.Sprintf("sync=%v/unsynced=%d%%", mode, percent), func(t *testing.T) {
				fs := vfs.NewCrashableMem()
				var known []string // replayed at the last start
				for range 6 {
					cfg := vfs.CrashCloneCfg{
						UnsyncedDataPercent: percent,
						RNG:                 rand.New(rand.NewPCG(rng.Uint64(), 0)),
					}
					fs, known = crashOnce(t, fs, mode, known, cfg)
				}
				t.Logf("%d records at the end", len(known))
			})
		}
	}
}

// crashOnce starts a log that must hold known, lets writers append, and crashes it in the middle.
// It returns the file system after the crash and the records in it.
func crashOnce(
	t *testing.T, fs *vfs.MemFS, mode SyncMode, known []string, cfg vfs.CrashCloneCfg,
) (*vfs.MemFS, []string) {
	o := small(fs)
	o.Sync, o.SyncInterval = mode, time.Millisecond
	l := start(t, o)
	c := crewOf(l, 8, 0)
	testwait.Until(t, "there are some records", func() bool { return l.Stats().Records >= 500 })
	durable := c.durable(mode)
	crashed := fs.CrashClone(cfg)
	c.end()
	closeLog(t, l)

	got, err := read(crashed, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < len(known) || !slices.Equal(got[:len(known)], known) {
		t.Fatal("records of an earlier run are gone or changed")
	}
	c.check(t, durable, got, 0)
	return crashed, got
}

// crew is writers that append to a log until it crashes.
type crew struct {
	log      *Log
	first    int        // tag of the first writer
	appended [][]uint64 // by writer: LSN of each record
	acked    atomic.Uint64
	stop     atomic.Bool
	work     sync.WaitGroup
}

// crewOf sets so many writers to work. Those of another life of the log have other tags.
func crewOf(l *Log, writers, life int) *crew {
	c := &crew{log: l, first: life * writers, appended: make([][]uint64, writers)}
	for w := range writers {
		c.work.Go(func() { c.append(w) })
	}
	return c
}

func (c *crew) append(w int) {
	for n := 0; !c.stop.Load(); n++ {
		record := tagged(c.first+w, n, n%300)
		if c.log.Reserve(len(record), time.Minute) != nil {
			return
		}
		lsn := c.log.Append(record, 0)
		c.appended[w] = append(c.appended[w], lsn)
		if n%5 != 0 && acknowledge(c.log, lsn) == nil {
			for old := c.acked.Load(); old < lsn &&
				!c.acked.CompareAndSwap(old, lsn); old = c.acked.Load() {
			}
		}
	}
}

// durable is an LSN up to which a crash from now on must lose nothing.
func (c *crew) durable(mode SyncMode) uint64 {
	durable := c.log.Durable()
	if mode == SyncAlways {
		durable = max(durable, c.acked.Load())
	}
	return durable
}

func (c *crew) end() {
	c.stop.Store(true)
	c.work.Wait()
}

// check compares what is left behind an LSN with what was appended.
func (c *crew) check(t *testing.T, durable uint64, got []string, after uint64) {
	t.Helper()
	last := after + uint64(len(got))
	if durable > last {
		t.Fatalf("record %d was durable, they end with %d", durable, last)
	}
	for w := range c.appended {
		for n, lsn := range c.appended[w] {
			if lsn > after && lsn <= last &&
				tagOf([]byte(got[lsn-after-1])) != [2]uint32{uint32(c.first + w), uint32(n)} {
				t.Fatalf("record %d is not record %d of writer %d, which got that LSN", lsn, n, w)
			}
		}
	}
}

// After a failed sync the kernel may show pages that never reached the disk, and call them clean.
// Start writes them again, so that what was replayed is durable when Start returns.
func TestStartMakesTheReplayedDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	segments := written(t, false, "a", "b", "c")
	if _, err := dirsync.Create(fs, dir); err != nil {
		t.Fatal(err)
	}
	// In the cache only: neither file nor directory is synced.
	store(t, fs, segmentFile(1), segments[1])
	storeControl(t, fs, controlState{since: 1, id: idOf(t, segments[1])})
	l := start(t, small(fs))
	if l.Durable() != 3 {
		t.Errorf("durable %d", l.Durable())
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	closeLog(t, l)
	if got, err := read(crashed, 0); err != nil || len(got) != 3 {
		t.Errorf("%q, %v", got, err)
	}
}

// The same, seen from the operations: what no later block proves durable is written again, no more
// than that.
func TestStartRewritesTheUnproven(t *testing.T) {
	segments := written(t, false, "a", "b", "c")
	offsets, _ := blocksIn(segments[1], 1)
	var mu sync.Mutex
	var rewritten []int64
	fs := errorfs.Wrap(disk(t, segments), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && op.Path == segmentFile(1) {
			mu.Lock()
			defer mu.Unlock()
			rewritten = append(rewritten, op.Offset)
		}
		return nil
	}))
	closeLog(t, start(t, small(fs)))
	if want := []int64{0, offsets[2]}; !slices.Equal(rewritten, want) {
		t.Errorf("wrote at %v, want %v: the header and the last block", rewritten, want)
	}
}
