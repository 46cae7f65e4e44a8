package wal

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

// LockName is the name of the file in the log's directory that Open locks.
const LockName = "LOCK"

const (
	segmentSuffix  = ".wal"
	recycledSuffix = ".old" // of a file that was a segment and will be another (recycle.go)
	digits         = 20     // of the number in a file name, so that names sort like numbers

	// freshName is no segment's name: the next Start overwrites what a crash leaves under it.
	freshName = "fresh" + segmentSuffix
)

// directory is where the log's files are. Immutable, but for its guard.
type directory struct {
	fs     vfs.FS
	path   string
	logger *slog.Logger
	guard  guard
}

func (d *directory) join(name string) string { return d.fs.PathJoin(d.path, name) }

func (d *directory) segment(number uint64) string {
	return d.join(fmt.Sprintf("%0*d%s", digits, number, segmentSuffix))
}

func (d *directory) recycled(number uint64) string {
	return d.join(fmt.Sprintf("%0*d%s", digits, number, recycledSuffix))
}

// parseSegmentName returns the number in a segment's file name.
func parseSegmentName(name string) (uint64, bool) { return parseName(name, segmentSuffix) }

func parseName(name, suffix string) (uint64, bool) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok || len(base) != digits {
		return 0, false
	}
	n, err := strconv.ParseUint(base, 10, 64)
	return n, err == nil && n > 0
}

// IsSegment reports whether a file of the log's directory is a segment, by its name.
func IsSegment(name string) bool {
	_, ok := parseSegmentName(name)
	return ok
}

// list returns the numbers in the names of the files with a suffix.
func (d *directory) list(suffix string) ([]uint64, error) {
	names, err := d.fs.List(d.path)
	if err != nil {
		return nil, fmt.Errorf("wal: list %s: %w", d.path, err)
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := parseName(name, suffix); ok {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// sync makes the directory's entries durable.
func (d *directory) sync() error {
	if err := dirsync.Sync(d.fs, d.path); err != nil {
		return fmt.Errorf("wal: sync %s: %w", d.path, err)
	}
	return nil
}

// tryWriting opens a file that is there for writing, and changes nothing.
func (d *directory) tryWriting(path string) error {
	f, err := d.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("wal: open %s: %w", path, err)
	}
	return f.Close()
}

// corrupt reports damage at a place.
func (d *directory) corrupt(segment uint64, offset int64, lsn uint64, err error) error {
	return &CorruptionError{
		Dir: d.path, Segment: segment, Path: d.segment(segment), Offset: offset, LSN: lsn, Err: err,
	}
}
