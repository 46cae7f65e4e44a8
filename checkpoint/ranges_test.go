package checkpoint

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// bound is the i-th bound of the ranges of these tests.
func bound(i int) string { return fmt.Sprintf("%02d", i) }

// fill replaces ranges [from, to), each of one key with a value.
func fill(t *testing.T, s *Store, from, to int, value string) {
	t.Helper()
	for i := from; i < to; i++ {
		replace(t, s, bound(i), bound(i+1), bound(i)+"key", value)
	}
}

// syncs counts the flushes that a file system is asked for: of files, and of directories.
type syncs struct{ n atomic.Int64 }

func (c *syncs) wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			c.n.Add(1)
		}
		return nil
	}))
}

// TestRangesAreInstalledAtOnce: 64 ranges that follow each other cost a sync each, of their tables,
// and two to put them in their place; one after the other, they cost three
// each. The values of a Commit are the same for one range as for all.
func TestRangesAreInstalledAtOnce(t *testing.T) {
	const ranges = 64
	var counted syncs
	s := openStore(t, counted.wrap(vfs.NewMem()))
	defer s.Close()
	count := func(do func()) int64 {
		before := counted.n.Load()
		do()
		return counted.n.Load() - before
	}
	apart := count(func() {
		for i := range ranges {
			fill(t, s, i, i+1, "1")
			install(t, s)
		}
	})
	together := count(func() {
		fill(t, s, 0, ranges, "2")
		install(t, s)
	})
	if apart != 3*ranges || together != ranges+2 {
		t.Errorf("%d syncs one by one, want %d; %d together, want %d",
			apart, 3*ranges, together, ranges+2)
	}
	if own := count(func() {
		if err := s.Commit(5); err != nil {
			t.Fatal(err)
		}
	}); own > 5 {
		t.Errorf("%d syncs of a commit", own)
	}
	t.Logf("%d syncs, %d when each range is installed alone", together, apart)
}

// TestCrashWhileRangesAreInstalled: what a crash at any moment leaves is what was there before the
// ranges were replaced, or all of them, never some; and nothing that is not a store's.
func TestCrashWhileRangesAreInstalled(t *testing.T) {
	const ranges = 8
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs)
	fill(t, s, 0, ranges, "old")
	if err := errors.Join(s.Commit(1), s.Close()); err != nil {
		t.Fatal(err)
	}
	left := crashes(t, fs, func(fs vfs.FS) {
		s := openStore(t, fs)
		fill(t, s, 1, ranges-1, "new")
		if err := errors.Join(s.Commit(2), s.Close()); err != nil {
			t.Fatal(err)
		}
	})
	seen := map[string]int{}
	for n, crashed := range left {
		s := openStore(t, crashed)
		var values []string
		for pairs := content(t, s, "", ""); len(pairs) > 0; pairs = pairs[2:] {
			values = append(values, pairs[1])
		}
		got := strings.Join(values, " ")
		seen[fmt.Sprint(s.LSN(), " ", got)]++
		if len(values) != ranges || values[0] != "old" || values[ranges-1] != "old" ||
			strings.Count(got, values[1]) < ranges-2 || s.LSN() == 2 && values[1] == "old" {
			t.Errorf("crash %d: as of %d, %s", n, s.LSN(), got)
		}
		wantNoRanges(t, crashed)
		s.Close()
	}
	if len(seen) != 3 { // before, all of them but not their LSN, and after
		t.Errorf("%d states: %v", len(seen), seen)
	}
}

// wantNoRanges checks that no table of a range lies beside the store.
func wantNoRanges(t *testing.T, fs vfs.FS) {
	t.Helper()
	names, err := fs.List("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if isRange(name) {
			t.Errorf("%s is left", name)
		}
	}
}

// TestRangesWithGaps: what lies between ranges that were replaced stays; so does what a run of
// empty ranges does not cover. A range that is replaced again is what it was made last.
func TestRangesWithGaps(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs)
	fill(t, s, 0, 6, "old")
	install(t, s)
	fill(t, s, 0, 1, "new")
	replace(t, s, bound(1), bound(2))
	replace(t, s, bound(3), bound(4))
	fill(t, s, 5, 6, "new")
	fill(t, s, 5, 6, "newest")
	if err := s.Commit(3); err != nil {
		t.Fatal(err)
	}
	wanted := []string{"00key", "new", "02key", "old", "04key", "old", "05key", "newest"}
	want(t, s, wanted...)
	wantNoRanges(t, fs)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, fs)
	want(t, s, wanted...)
	s.Close()
}

// TestDiscard: what was replaced and discarded, or not installed when the store is closed, has
// changed nothing and leaves nothing.
func TestDiscard(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs)
	fill(t, s, 0, 4, "old")
	if err := s.Commit(1); err != nil {
		t.Fatal(err)
	}
	old := content(t, s, "", "")
	fill(t, s, 0, 3, "new")
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	wantNoRanges(t, fs)
	if err := s.Commit(2); err != nil {
		t.Fatal(err)
	}
	want(t, s, old...)
	fill(t, s, 0, 3, "new")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantNoRanges(t, fs)
	s = openStore(t, fs)
	defer s.Close()
	want(t, s, old...)
}

// TestInstallWithoutRoom: a disk that fills up while ranges are put in their place leaves all of
// them out, and the next attempt succeeds.
func TestInstallWithoutRoom(t *testing.T) {
	var full atomic.Bool
	var links atomic.Int64
	mem := vfs.NewMem()
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !full.Load() {
			return nil
		}
		// Pebble copies what it cannot link.
		third := op.Kind == errorfs.OpLink && links.Add(1) >= 3
		if third || op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))
	s := openStore(t, fs)
	defer s.Close()
	fill(t, s, 0, 4, "old")
	install(t, s)
	old := content(t, s, "", "")
	fill(t, s, 0, 4, "new")
	full.Store(true)
	if err := s.Commit(5); !errors.Is(err, syscall.ENOSPC) || s.LSN() != 0 {
		t.Errorf("Commit on a full disk: %v, as of %d", err, s.LSN())
	}
	want(t, s, old...)
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	full.Store(false)
	fill(t, s, 0, 4, "new")
	if err := s.Commit(6); err != nil || s.LSN() != 6 {
		t.Errorf("Commit afterwards: %v, as of %d", err, s.LSN())
	}
	wantNoRanges(t, mem)
}
