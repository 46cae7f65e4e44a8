package wal

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/faultfs"
	"rollcall/internal/testwait"
)

var quiet = slog.New(slog.DiscardHandler)

// surveyOf reads the log of a file system, from its first record on.
func surveyOf(t testing.TB, fs vfs.FS) (Survey, []string, error) {
	t.Helper()
	l, err := OpenReadOnly(dir, Options{FS: fs, Logger: quiet})
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
	if err != nil || !slices.Equal(got, records) || s.Next != 61 || s.TornBytes != 4 ||
		len(s.Segments) != int(last) {
		t.Fatalf("%d records, %+v, %v", len(got), s, err)
	}
	next, sum := uint64(1), uint64(0)
	for i, seg := range s.Segments {
		offsets, end := blocksIn(segments[seg.Number], seg.Number)
		if seg.Number != uint64(i+1) || seg.First != next || seg.Last+1-seg.First != seg.Records ||
			seg.Blocks != len(offsets) ||
			seg.Used != end || seg.Bytes != int64(len(segments[seg.Number])) || !seg.Read ||
			seg.Durable != max(seg.First, seg.Last)-1 {
			t.Errorf("%+v, %d blocks to %d", seg, len(offsets), end)
		}
		next, sum = seg.Last+1, sum+seg.Records
	}
	if sum != 60 {
		t.Errorf("%d records in all segments", sum)
	}
}

// A reader gets what is before the damage, and the damage.
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
		if !errors.As(err, &c) || c.Segment != 2 || (name == "payload" && (c.Offset != offsets[3] ||
			c.LSN != s.Next)) {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.Segments) == 0 || s.Segments[0].Records == 0 || s.Next <= s.Segments[0].Last {
			t.Errorf("%s: %+v", name, s)
		}
	}
	newer := maps.Clone(segments)
	newer[2] = slices.Clone(segments[2])
	binary.LittleEndian.PutUint32(newer[2][8:], formatVersion+1)
	var version *VersionError
	o := Options{FS: disk(t, newer), Logger: quiet}
	if _, err := OpenReadOnly(dir, o); !errors.As(err, &version) {
		t.Errorf("a later version: %v", err)
	}
}

// readOf matches a read of a segment behind the first window.
func readOf(number uint64, from int64) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileReadAt && op.Path == segmentFile(number) &&
			op.Offset >= from
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

// The moments in which a server that runs looks damaged to a reader beside it, each forced.
func TestReaderMeetsTheWriter(t *testing.T) {
	large := func(fs vfs.FS) Options {
		o := small(fs)
		// The first segment has two windows, the second four.
		o.BufferBytes, o.SegmentBytes = windowBytes/2, 8*windowBytes
		return o
	}
	t.Run("a promise behind a block that was not there", func(t *testing.T) {
		mem := vfs.NewMem()
		l := start(t, large(mem))
		commit(t, l, "first")
		fs := faultfs.Hook(mem, readOf(1, windowBytes/2), func() { spread(t, l, 3*windowBytes/2) })
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
			l.gate.mu.Lock()
			defer l.gate.mu.Unlock()
			return l.gate.prepared == 2
		})
		fs := faultfs.Hook(mem, readOf(2, windowBytes/2), func() { spread(t, l, 7*windowBytes/2) })
		if s, records, err := surveyOf(t, fs); err != nil || len(s.Segments) != 2 ||
			s.Next != uint64(len(records)+1) {
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
		fs := faultfs.Hook(mem, readOf(3, 0), func() {
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
}
