package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/testwait"
)

// plenty is a reader's bound that no test reaches.
const plenty = 1 << 30

// readFrom returns the records that a reader gives from an LSN on, and the LSN of the first.
func readFrom(t testing.TB, r *Reader, from uint64) (first uint64, records []string) {
	t.Helper()
	if err := r.Read(from, func(lsn uint64, record []byte) error {
		if records = append(records, string(record)); len(records) == 1 {
			first = lsn
		}
		if lsn != first+uint64(len(records))-1 {
			return fmt.Errorf("record %d after %d from %d", lsn, len(records)-1, first)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return first, records
}

func TestReaderOfAnEmptyLog(t *testing.T) {
	l, err := Open(dir, small(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeLog(t, l)
	r := l.NewReader(0, plenty)
	for _, when := range []string{"before Start", "after it"} {
		if _, got := readFrom(t, r, 0); len(got) > 0 {
			t.Errorf("%s: %q", when, got)
		}
		if when == "before Start" {
			if err := l.Start(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A reader begins anywhere, goes on and goes back, over segments of several lives.
func TestReaderSeeks(t *testing.T) {
	mem := vfs.NewMem()
	var want []string
	for life := range 3 {
		l := start(t, small(mem))
		for _, record := range numbered(30, 1000) {
			record = fmt.Sprint(life, record)
			want = append(want, record)
			commit(t, l, record)
		}
		closeLog(t, l)
	}
	l := start(t, small(mem))
	defer closeLog(t, l)
	r := l.NewReader(0, plenty)
	last := uint64(len(want))
	for _, from := range []uint64{1, 50, 51, 20, last, last + 1, 1} {
		first, got := readFrom(t, r, from)
		if !slices.Equal(got, want[from-1:]) || len(got) > 0 && first != from {
			t.Fatalf("from %d: %d records from %d", from, len(got), first)
		}
	}
	stop := errors.New("stop")
	if err := r.Read(40, func(lsn uint64, record []byte) error {
		if string(record) != want[lsn-1] || lsn > 43 {
			t.Errorf("record %d is %.10q", lsn, record)
		}
		if lsn == 43 {
			return stop
		}
		return nil
	}); err != stop {
		t.Errorf("%v", err)
	}
	if first, got := readFrom(t, r, 43); first != 43 || !slices.Equal(got, want[42:]) {
		t.Errorf("from 43 again: %d records from %d", len(got), first)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// What a reader has open is not recycled, however far the log goes on and whatever its bound is
// (W8); then it goes on with the oldest record that is there (W9).
func TestReaderKeepsItsSegment(t *testing.T) {
	l := start(t, small(vfs.NewMem()))
	defer closeLog(t, l)
	r := l.NewReader(0, 0)
	want := numbered(300, 1000)
	for _, record := range want[:40] {
		commit(t, l, record)
	}
	stop := errors.New("stop")
	if err := r.Read(20, func(uint64, []byte) error { return stop }); err != stop {
		t.Fatal(err)
	}
	limit := r.limit
	if err := l.TruncateBefore(limit); err != nil || l.First() != limit {
		t.Fatalf("the log begins with record %d, %v", l.First(), err)
	}
	for _, record := range want[40:] { // in the files of the segments before
		commit(t, l, record)
	}
	if n := l.recycler.count(); n > 0 {
		t.Fatalf("%d files still wait to be recycled", n)
	}
	if err := l.TruncateBefore(200); err != nil || r.First() <= limit {
		t.Fatalf("the log begins with record %d, %v", r.First(), err)
	}
	next, last := uint64(20), uint64(len(want))
	if err := r.Read(next, func(lsn uint64, record []byte) error {
		if lsn != next && (next != limit || lsn != r.First()) || string(record) != want[lsn-1] {
			return fmt.Errorf("record %d, not %d: %.10q", lsn, next, record)
		}
		next = lsn + 1
		return nil
	}); err != nil || next != last+1 {
		t.Errorf("through %d: %v", next-1, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A reader reads what is committed and nothing else, while appenders work and segments are taken
// off and recycled; within its bound it misses none (W9).
func TestReaderBesideAppenders(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			o := small(vfs.NewMem())
			o.Sync = mode
			l := start(t, o)
			r := l.NewReader(1, plenty)
			c := crewOf(l, 4, 0)
			c.work.Go(func() {
				for !c.stop.Load() {
					if err := l.TruncateBefore(l.Durable() + 1); err != nil {
						t.Error(err)
						return
					}
				}
			})
			var records []string
			more := func() {
				t.Helper()
				next := uint64(len(records)) + 1
				if err := r.Wait(t.Context(), next); err != nil {
					t.Fatal(err)
				}
				first, got := readFrom(t, r, next)
				if first != next || l.Committed() < next+uint64(len(got))-1 {
					t.Fatalf("%d records from %d, not %d; committed through %d",
						len(got), first, next, l.Committed())
				}
				records = append(records, got...)
				if err := r.Retain(uint64(len(records)) + 1); err != nil {
					t.Fatal(err)
				}
			}
			for len(records) < 2000 || l.First() < 1000 {
				more()
			}
			c.end()
			last := l.Appended()
			l.Kick() // not each record of the crew was asked for
			for uint64(len(records)) < last {
				more()
			}
			c.check(t, last, records, 0)
			if err := errors.Join(r.Close(), l.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Damage of what is committed is an error, as in recovery.
func TestReaderFindsDamage(t *testing.T) {
	mem := vfs.NewMem()
	l := start(t, small(mem))
	defer closeLog(t, l)
	for _, record := range []string{"a", "b", "c"} {
		commit(t, l, record)
	}
	f, err := mem.OpenReadWrite(segmentFile(1), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	offsets, _ := blocksIn(load(t, mem, segmentFile(1)), 1)
	if _, err := f.WriteAt([]byte{0xff}, offsets[1]+blockHeaderBytes); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := l.NewReader(0, plenty)
	defer r.Close()
	var got []string
	err = r.Read(1, func(_ uint64, record []byte) error {
		got = append(got, string(record))
		return nil
	})
	var corrupt *CorruptionError
	if !errors.As(err, &corrupt) || corrupt.LSN != 2 || corrupt.Offset != offsets[1] ||
		len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}

// A waiter for a record that never comes learns why.
func TestReaderWaits(t *testing.T) {
	fs, broken := failOn(vfs.NewMem(), errorfs.OpFileSyncData, errors.New("gone"))
	l := start(t, small(fs))
	r := l.NewReader(0, plenty)
	commit(t, l, "a")
	if err := r.Wait(t.Context(), 1); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	failed := make(chan error, 1)
	go func() { failed <- r.Wait(t.Context(), 2) }()
	broken.Store(true)
	add(t, l, strings.Repeat("b", 10))
	if err := testwait.For(t, "Wait returns", failed); !errors.Is(err, ErrFailed) {
		t.Errorf("the log failed: %v", err)
	}
	r.Close()
	l.Close()
}
