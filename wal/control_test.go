package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"rollcall/internal/dirsync"
)

// TestControlGolden pins every byte of a copy, and that each flipped bit of it is noticed.
func TestControlGolden(t *testing.T) {
	const golden = "testdata/control.hex"
	state := controlState{
		generation: 5, id: testID, since: 2,
		newest:  segmentName{number: 7, first: 1000, size: 64 << 20},
		durable: 1234, cut: 900, closed: true,
	}
	b := state.encode()
	if *update {
		if err := os.WriteFile(golden, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(b); got != string(want) {
		t.Errorf("the format changed: got\n%swant\n%s", got, want)
	}
	if got, ok, err := decodeControl(b, "x"); err != nil || !ok || got != state {
		t.Errorf("decode = %+v, %v, %v", got, ok, err)
	}
	for bit := range len(b) * 8 {
		flipped := bytes.Clone(b)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, ok, err := decodeControl(flipped, "x"); ok && err == nil {
			t.Errorf("bit %d flipped and not noticed", bit)
		}
	}
}

// image is the content of a log's directory by file name.
type image map[string][]byte

// imageOf returns what a file system holds in the log's directory.
func imageOf(t testing.TB, fs *vfs.MemFS) image {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	im := image{}
	for _, name := range names {
		if strings.HasSuffix(name, segmentSuffix) || name == ControlName {
			im[name] = load(t, fs, dir+"/"+name)
		}
	}
	return im
}

// disk makes a file system of an image, all of it durable.
func (im image) disk(t testing.TB) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	for name, b := range im {
		store(t, fs, dir+"/"+name, b)
		f, err := fs.Open(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"", "data", dir} {
		if err := dirsync.Sync(fs, d); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// with returns the image with one file changed.
func (im image) with(name string, change func([]byte) []byte) image {
	changed := maps.Clone(im)
	if b := change(bytes.Clone(im[name])); b != nil {
		changed[name] = b
	} else {
		delete(changed, name)
	}
	return changed
}

func nameOf(number uint64) string { return fmt.Sprintf("%020d%s", number, segmentSuffix) }

// newestIn returns the number of the last segment that was begun, and where its blocks begin and
// end.
func newestIn(t testing.TB, im image) (number uint64, offsets []int64, end int64) {
	t.Helper()
	begun := func(b []byte) bool { return len(b) > 0 && !allZero(b[:segmentHeaderBytes]) }
	for begun(im[nameOf(number+1)]) {
		number++
	}
	offsets, end = blocksIn(im[nameOf(number)], number)
	return number, offsets, end
}

// logImage returns a log of many records in several segments, closed in order or as a crash leaves
// it, and the records.
func logImage(t testing.TB, closed bool) (image, []string) {
	t.Helper()
	records := numbered(60, 1200)
	fs := vfs.NewCrashableMem()
	l := start(t, small(fs))
	for _, r := range records {
		commit(t, l, r)
	}
	if err := l.control.refresh(l.Durable() - 1); err != nil { // as run does, a moment ago
		t.Fatal(err)
	}
	im := imageOf(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	closeLog(t, l)
	if closed {
		im = imageOf(t, fs)
	}
	return im, records
}

// shortenings are the ways in which the last segment loses its end. None of them is what a crash
// leaves.
var shortenings = map[string]func(b []byte) []byte{
	"half":        func(b []byte) []byte { return b[:len(b)/2] },
	"header only": func(b []byte) []byte { return b[:segmentHeaderBytes] },
	"empty":       func(b []byte) []byte { return b[:0] },
	"part of the header": func(b []byte) []byte {
		return b[:segmentHeaderBytes/2]
	},
	"missing":      func([]byte) []byte { return nil },
	"no last byte": func(b []byte) []byte { return b[:len(b)-1] },
	"all zero":     func(b []byte) []byte { return make([]byte, len(b)) },
}

// TestShortLog: a log whose last segment lost its end is refused, after an orderly end and after a
// crash, and the error names the file and what is known of it.
func TestShortLog(t *testing.T) {
	for _, closed := range []bool{true, false} {
		im, _ := logImage(t, closed)
		number, offsets, _ := newestIn(t, im)
		if number < 3 || len(offsets) < 3 {
			t.Fatalf("segment %d with %d blocks", number, len(offsets))
		}
		for name, shorten := range shortenings {
			fs := im.with(nameOf(number), shorten).disk(t)
			_, err := read(fs, 0)
			var c *CorruptionError
			if !errors.As(err, &c) || c.Path != segmentFile(number) || c.Segment != number {
				t.Errorf("closed=%v, %s: %v", closed, name, err)
				continue
			}
			size := fmt.Sprint(small(fs).SegmentBytes)
			if !strings.Contains(err.Error(), size) {
				t.Errorf("closed=%v, %s: the size %s is not in: %v", closed, name, size, err)
			}
			// A reader gets what is before, and the same damage.
			s, got, err := surveyOf(t, fs)
			if !errors.As(err, &c) || c.Path != segmentFile(number) ||
				len(got) == 0 || uint64(len(got)) != s.Next-1 {
				t.Errorf("closed=%v, %s: read only: %d records, %+v, %v",
					closed, name, len(got), s, err)
			}
		}
	}
}

// TestZeroedTail: in a log that was closed, and up to the durable LSN in the control file in one
// that was not, zeros in the place of blocks are damage; behind it they are a torn tail.
func TestZeroedTail(t *testing.T) {
	for _, closed := range []bool{true, false} {
		im, records := logImage(t, closed)
		number, offsets, _ := newestIn(t, im)
		if closed {
			offsets = offsets[:len(offsets)-1] // the block that Close writes has no record
		}
		for i, at := range offsets {
			fs := im.with(nameOf(number), func(b []byte) []byte { clear(b[at:]); return b }).disk(t)
			got, err := read(fs, 0)
			left := len(records) - (len(offsets) - i)
			if torn := !closed && i == len(offsets)-1; torn {
				if err != nil || len(got) != left {
					t.Errorf("the last block zeroed: %d of %d records, %v", len(got), left, err)
				}
				continue
			}
			if !isCorruption(err) || len(got) != left ||
				!strings.Contains(err.Error(), ControlName) {
				t.Errorf("closed=%v, from block %d on zeroed: %d records, %v", closed, i, len(got), err)
			}
		}
	}
}

// TestMissingSegmentsAtTheEnd: however many are missing, the first of them is named.
func TestMissingSegmentsAtTheEnd(t *testing.T) {
	im, records := logImage(t, true)
	newest, _, _ := newestIn(t, im)
	cut := maps.Clone(im)
	for n := newest; n > 0; n-- {
		delete(cut, nameOf(n))
		_, err := read(cut.disk(t), 0)
		var c *CorruptionError
		var gone *MissingError
		switch {
		case n == 1:
			if !errors.As(err, &gone) || gone.Newest != newest {
				t.Errorf("no segment is left: %v", err)
			}
		case !errors.As(err, &c) || c.Path != segmentFile(n):
			t.Errorf("from segment %d on: %v", n, err)
		case !strings.Contains(err.Error(), fmt.Sprintf("to %d", len(records))):
			t.Errorf("what was in it is not in: %v", err)
		}
	}
}

// A segment that a checkpoint covers is not read, but must have its size.
func TestShortSegmentThatIsNotRead(t *testing.T) {
	im, records := logImage(t, true)
	fs := im.with(nameOf(1), func(b []byte) []byte { return b[:len(b)/2] }).disk(t)
	if _, err := read(fs, uint64(len(records))); !isCorruption(err) {
		t.Errorf("%v", err)
	}
}

// TestDamagedControl: one copy is enough, none or no file is damage, and what is left of the file
// decides.
func TestDamagedControl(t *testing.T) {
	im, records := logImage(t, true)
	flip := func(slots ...int) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, slot := range slots {
				b[slot*controlSlotBytes+50] ^= 1
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		whole  bool
	}{
		"copy 0":        {flip(0), true},
		"copy 1":        {flip(1), true},
		"both":          {flip(0, 1), false},
		"one is left":   {func(b []byte) []byte { return b[:controlSlotBytes] }, true},
		"half a copy":   {func(b []byte) []byte { return b[:controlStateBytes/2] }, false},
		"empty":         {func(b []byte) []byte { return b[:0] }, false},
		"missing":       {func([]byte) []byte { return nil }, false},
		"later version": {func(b []byte) []byte { binary.LittleEndian.PutUint32(b[8:], 3); return b }, false},
	} {
		fs := im.with(ControlName, c.change).disk(t)
		got, err := read(fs, 0)
		if c.whole {
			if err != nil || !slices.Equal(got, records) {
				t.Errorf("%s: %d records, %v", name, len(got), err)
			}
			closeLog(t, start(t, small(fs))) // writes both anew
			for slot := range controlSlots {
				b := load(t, fs, dir+"/"+ControlName)[slot*controlSlotBytes:]
				if _, ok, err := decodeControl(b, "x"); !ok || err != nil {
					t.Errorf("%s: copy %d after a start: %v, %v", name, slot, ok, err)
				}
			}
			continue
		}
		var version *VersionError
		if !isCorruption(err) && !errors.As(err, &version) ||
			!strings.Contains(err.Error(), ControlName) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForeignSegment: a segment of another directory is not taken for one of this log, nor is one
// of version 1.
func TestForeignSegment(t *testing.T) {
	im, _ := logImage(t, true)
	other, _ := logImage(t, true)
	newest, _, _ := newestIn(t, im)
	for name, b := range map[string][]byte{
		"another's": other[nameOf(newest)],
		"version 1": version1(t, im[nameOf(newest)], newest),
	} {
		fs := im.with(nameOf(newest), func([]byte) []byte { return b }).disk(t)
		_, err := read(fs, 0)
		if !isCorruption(err) || !strings.Contains(err.Error(), "another log's") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A control file of another moment of the same log, from before most of it.
	old := controlState{
		since: 1, id: idOf(t, im[nameOf(1)]), newest: segmentName{number: 1, first: 1},
	}
	fs := im.disk(t)
	storeControl(t, fs, old)
	_, err := read(fs, 0)
	if !isCorruption(err) || !strings.Contains(err.Error(), "older than the log") {
		t.Errorf("an old control file: %v", err)
	}
}

// version1 makes a segment one of format version 1: no size, no id.
func version1(t testing.TB, b []byte, number uint64) []byte {
	t.Helper()
	h, err := decodeSegmentHeader(b[:segmentHeaderBytes], "", number)
	if err != nil {
		t.Fatal(err)
	}
	old := bytes.Clone(b)
	binary.LittleEndian.PutUint32(old[8:], 1)
	binary.LittleEndian.PutUint64(old[32:], h.first-1)
	clear(old[48:segmentHeaderBytes])
	binary.LittleEndian.PutUint32(old[12:], segmentSum(old))
	return old
}

// version1Image returns a log of version 1.
func version1Image(t testing.TB) (image, []string) {
	t.Helper()
	im, records := logImage(t, true)
	delete(im, ControlName)
	for n := uint64(1); im[nameOf(n)] != nil; n++ {
		if b := im[nameOf(n)]; !allZero(b[:segmentHeaderBytes]) {
			im[nameOf(n)] = version1(t, b, n)
		}
	}
	return im, records
}

// TestUpgrade: a log of version 1 is read as it is, and goes on in version 2 with the next start,
// after which it has the guards of version 2; whatever step of the start a crash comes in.
func TestUpgrade(t *testing.T) {
	im, records := version1Image(t)
	old := im.disk(t)
	if got, err := read(old, 0); err != nil || !slices.Equal(got, records) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	if s, got, err := surveyOf(t, old); err != nil || len(got) != len(records) {
		t.Errorf("read only: %+v, %v", s, err)
	}
	crashes := crashesOfStart(t, im.disk(t))
	for i, fs := range crashes {
		if got, err := read(fs, 0); err != nil || !slices.Equal(got, records) {
			t.Fatalf("crash %d: %d records, %v", i, len(got), err)
		}
		closeLog(t, start(t, small(fs)))
	}
	fs := im.disk(t)
	l := start(t, small(fs))
	if l.ID() == uuid.Nil {
		t.Error("no id after Start")
	}
	commit(t, l, "more")
	closeLog(t, l)
	upgraded := imageOf(t, fs)
	if got, err := read(fs, 0); err != nil || !slices.Equal(got, append(records, "more")) {
		t.Errorf("after the upgrade: %d records, %v", len(got), err)
	}
	newest, _, _ := newestIn(t, upgraded)
	short := upgraded.with(nameOf(newest), shortenings["half"])
	if _, err := read(short.disk(t), 0); !isCorruption(err) {
		t.Errorf("shortened after the upgrade: %v", err)
	}
}

// An upgrade that a crash ended early may be followed by a life of version 1.
func TestUpgradeAfterADowngrade(t *testing.T) {
	im, records := version1Image(t)
	fs := im.disk(t)
	storeControl(t, fs, controlState{since: 2, id: testID})
	if got, err := read(fs, 0); err != nil || !slices.Equal(got, records) {
		t.Errorf("%d records, %v", len(got), err)
	}
}

// TestCutIsKept: what a checkpoint covers is known before a segment is taken off, and after a
// restart.
func TestCutIsKept(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var l *Log
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		takesOff := op.Kind == errorfs.OpRename && op.Path != dir+"/"+freshName
		if takesOff && strings.HasSuffix(op.Path, segmentSuffix) && l.Cut() == 0 {
			t.Errorf("%s is taken off before the cut is kept", op.Path)
		}
		return nil
	}))
	l = open(t, small(mem))
	closeLog(t, l)
	l = open(t, small(fs))
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range numbered(60, 1200) {
		commit(t, l, r)
	}
	if err := l.TruncateBefore(31); err != nil || l.Cut() != 30 {
		t.Errorf("cut %d, %v", l.Cut(), err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	closeLog(t, l)
	for name, fs := range map[string]vfs.FS{"closed": mem, "crashed": crashed} {
		again := open(t, small(fs))
		if again.Cut() != 30 || again.ID() != l.ID() {
			t.Errorf("%s: cut %d, id %s", name, again.Cut(), again.ID())
		}
		closeLog(t, again)
	}
}

// The id of a directory is given once.
func TestSetID(t *testing.T) {
	fs := vfs.NewMem()
	l := open(t, small(fs))
	if err := errors.Join(l.SetID(testID), l.SetID(testID), l.Start(nil)); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	l = open(t, small(fs))
	defer closeLog(t, l)
	if err := l.SetID(uuid.New()); err == nil || l.ID() != testID {
		t.Errorf("the id became %s, %v", l.ID(), err)
	}
}

// TestFailedWriteOfControl: a write of the control file that fails may leave its copy damaged. The
// next one goes to the same copy, so that the other stays whole, and what was not written is not
// known (W10).
func TestFailedWriteOfControl(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var failing atomic.Bool
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileWriteAt || op.Path != dir+"/"+ControlName || !failing.Load() {
			return nil
		}
		f, err := mem.OpenReadWrite(op.Path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, controlStateBytes), op.Offset)
		return errors.Join(errors.New("torn"), err, f.Sync(), f.Close())
	}))
	l := start(t, small(fs))
	var last uint64
	failing.Store(true)
	for range controlSlots {
		last = commit(t, l, "one")
		if err := l.TruncateBefore(last + 1); err == nil || l.Cut() != 0 {
			t.Errorf("cut %d, %v after a write that failed", l.Cut(), err)
		}
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	failing.Store(false)
	if err := l.TruncateBefore(last + 1); err != nil || l.Cut() != last {
		t.Errorf("cut %d, %v when the disk writes again", l.Cut(), err)
	}
	closeLog(t, l)
	closeLog(t, open(t, small(crashed)))
}
