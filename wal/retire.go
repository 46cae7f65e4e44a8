package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
	"rollcall/internal/filelock"
)

// A segment that TruncateBefore takes off the log is kept under another name, and becomes the next one that is prepared: its
// blocks are allocated and written already, so nothing has to be filled with zeros, and the disk writes half as much. What lies
// in it is no block of its new number (W6), and its new header says that it may be there.
//
//	00000000000000000007.wal ──rename, sync directory──► 00000000000000000007.old
//	                                                          │ nobody reads it; zero the header, sync
//	00000000000000000016.wal ◄──rename, sync directory────────┘
//
// The log takes no more room for it than it had at its largest: a file is made only when none is left.

// retiredSuffix is no segment's: what a crash leaves under it is removed by the next Start.
const retiredSuffix = ".old"

// maxRetired bounds the files that are kept: with the default settings, more than a log has that grows by 100 MB/s.
const maxRetired = 16

func (l *Log) retiredPath(number uint64) string {
	return strings.TrimSuffix(l.segmentPath(number), segmentSuffix) + retiredSuffix
}

// dropSegment takes a segment off the log. kept is the path under which its file is kept, "" when it is removed.
func (l *Log) dropSegment(s segmentName) (kept string, err error) {
	path := l.segmentPath(s.number)
	l.mu.Lock()
	keep := s.size == l.o.SegmentBytes && len(l.retired) < maxRetired
	l.mu.Unlock()
	if keep {
		kept = l.retiredPath(s.number)
		if l.o.FS.Rename(path, kept) == nil {
			return kept, nil
		}
	}
	// Gone already: an earlier call removed or renamed it and could not sync the directory.
	if err := l.o.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("wal: remove segment %d: %w", s.number, err)
	}
	return "", nil
}

// reuseSegment makes a retired file the next segment. Nil: there is none that can be used.
func (l *Log) reuseSegment(path string, number uint64, size int64) *segment {
	old := l.takeRetired(size)
	if old == "" {
		return nil
	}
	f, err := l.reuse(old, path, size)
	if err == nil {
		return &segment{file: f, number: number, size: size, reused: true}
	}
	l.o.Logger.Debug("retired segment is not used again", "file", old, "err", err)
	l.removeRetired(old)
	return nil
}

var (
	errBeingRead = errors.New("somebody reads it")
	errNotWhole  = errors.New("it has not the size that it had")
)

func (l *Log) reuse(old, path string, size int64) (_ vfs.File, err error) {
	f, err := l.o.FS.OpenReadWrite(old, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if info, err := f.Stat(); err != nil || info.Size() != size {
		return nil, errors.Join(errNotWhole, err) // opening makes a file where there is none
	}
	if !filelock.Exclusive(f) {
		return nil, errBeingRead
	}
	defer func() { filelock.Unlock(f) }() // a View may read it from now on: under its new name it is the new segment
	if _, err := f.WriteAt(make([]byte, segmentHeaderBytes), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := l.o.FS.Rename(old, path); err != nil {
		return nil, err
	}
	if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
		return nil, errors.Join(err, l.o.FS.Remove(path))
	}
	return f, nil
}

// takeRetired takes the file that was kept last, whose bytes are the likeliest to be in memory still.
func (l *Log) takeRetired(size int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.retired) - 1
	if last < 0 || size != l.o.SegmentBytes {
		return ""
	}
	path := l.retired[last]
	l.retired = l.retired[:last]
	return path
}

func (l *Log) removeRetired(path string) {
	if err := l.o.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.o.Logger.Debug("retired segment stays behind", "file", path, "err", err)
	}
}

// removeAllRetired removes what an earlier life left, or this one at its end.
func (l *Log) removeAllRetired() error {
	names, err := l.o.FS.List(l.dir)
	if err != nil {
		return fmt.Errorf("wal: list %s: %w", l.dir, err)
	}
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, retiredSuffix); ok {
			if _, ok := parseSegmentName(base + segmentSuffix); ok {
				l.removeRetired(l.o.FS.PathJoin(l.dir, name))
			}
		}
	}
	return nil
}
