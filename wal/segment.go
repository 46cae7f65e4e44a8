package wal

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

const (
	segmentSuffix  = ".wal"
	segmentBuffers = 4        // a segment holds at least so many full buffers
	fillBytes      = 1 << 20  // zeros are synced in pieces of this size
	zeroBytes      = 64 << 10 // and written in pieces of this one; in the large cache pages that larger ones make, later writes cost twice
	digits         = 20       // of the number in a file name, so that names sort like numbers
)

// segmentName is a segment on disk as the Log remembers it.
type segmentName struct {
	number uint64
	first  uint64 // LSN of its first record
	size   int64
	reused bool // see segmentHeader
}

func (l *Log) segmentPath(number uint64) string {
	return l.o.FS.PathJoin(l.dir, fmt.Sprintf("%0*d%s", digits, number, segmentSuffix))
}

// parseSegmentName returns the number in a segment's file name.
func parseSegmentName(name string) (uint64, bool) {
	base, ok := strings.CutSuffix(name, segmentSuffix)
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

// segment is a file that is being written.
type segment struct {
	file   vfs.File
	number uint64
	size   int64 // of the file
	used   int64 // where the next block goes
	reused bool  // what lies behind the blocks may be another segment's
}

func (s *segment) left() int64 { return s.size - s.used }

func (s *segment) begin(first uint64) error {
	s.used = 0
	h := segmentHeader{number: s.number, first: first, durable: first - 1, reused: s.reused}
	if err := s.write(h.encode()); err != nil {
		return err
	}
	return s.sync()
}

func (s *segment) write(b []byte) error {
	n, err := s.file.WriteAt(b, s.used)
	if err == nil && n < len(b) {
		err = fmt.Errorf("short write: %d of %d bytes", n, len(b))
	}
	if err != nil {
		return fmt.Errorf("wal: write %d bytes at offset %d of segment %d: %w", len(b), s.used, s.number, err)
	}
	s.used += int64(len(b))
	return nil
}

func (s *segment) sync() error {
	if err := s.file.SyncData(); err != nil {
		return fmt.Errorf("wal: sync segment %d: %w", s.number, err)
	}
	return nil
}

// createSegment makes a file of zeros and its directory entry durable, so that later syncs have no metadata to write.
// On failure it leaves nothing behind: half a segment would keep the disk full.
func (l *Log) createSegment(path string, number uint64, size int64) (_ *segment, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("wal: prepare segment %d of %d bytes: %w", number, size, err)
		}
	}()
	f, err := l.o.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	if err := l.fill(f, size); err != nil {
		return nil, errors.Join(err, f.Close(), l.o.FS.Remove(path))
	}
	if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
		return nil, errors.Join(err, f.Close(), l.o.FS.Remove(path))
	}
	return &segment{file: f, number: number, size: size}, nil
}

// fill writes zeros. Only written zeros help: blocks that were merely allocated cost a metadata write at the first sync.
func (l *Log) fill(f vfs.File, size int64) error {
	// Asking for the whole size first finds a full disk before filling it. Any other answer is not needed.
	if err := f.Preallocate(0, size); vfs.IsNoSpaceError(err) {
		return err
	}
	zeros := make([]byte, min(zeroBytes, size))
	for done := int64(0); done < size; {
		clear(zeros) // a File may change what it is given
		n, err := f.Write(zeros[:min(int64(len(zeros)), size-done)])
		if err != nil {
			return err
		}
		if done += int64(n); done%fillBytes != 0 && done < size {
			continue
		}
		// In pieces, and not all of the time: tens of megabytes handed to the disk at once would stand in the way of the
		// commit loop's syncs, for a second or more.
		began := time.Now()
		if err := f.Sync(); err != nil {
			return err
		}
		l.restFromFilling(time.Since(began))
	}
	return nil
}

// restFromFilling leaves the disk to the commit loop for as long as it was taken, unless the segment is wanted soon: before
// Start, when the log closes, or when the current segment is three quarters full.
func (l *Log) restFromFilling(took time.Duration) {
	l.mu.Lock()
	soon := l.life != started || len(l.segments) == 0 || l.roomLeft < l.segments[len(l.segments)-1].size/4
	l.mu.Unlock()
	if soon {
		return
	}
	select {
	case <-time.After(min(took, 100*time.Millisecond)):
	case <-l.closing:
	}
}

// prepareLoop keeps one segment ready beyond the current one. A failure is no failure of the log (I6): it is logged
// once, retried, and meanwhile the gate may refuse new records.
func (l *Log) prepareLoop(number uint64, size int64) {
	defer close(l.prepareDone)
	for {
		s, err := l.prepareSegment(number, size)
		l.notePrepared(err)
		if err != nil {
			select {
			case <-time.After(l.o.prepareRetry):
				continue
			case <-l.prepareStop:
				return
			}
		}
		select {
		case l.spares <- s:
			number++
			size = l.nextSize(size)
		case <-l.prepareStop:
			l.discard(s)
			return
		}
	}
}

// prepareSegment uses a retired file again, or makes a new one.
func (l *Log) prepareSegment(number uint64, size int64) (*segment, error) {
	path := l.segmentPath(number)
	if s := l.reuseSegment(path, number, size); s != nil {
		return s, nil
	}
	return l.createSegment(path, number, size)
}

// nextSize doubles up to the configured size: a small server does not begin by filling 64 MiB.
func (l *Log) nextSize(size int64) int64 { return min(2*size, l.o.SegmentBytes) }

// discard removes a segment that was prepared in vain. Recovery would do it too.
func (l *Log) discard(s *segment) {
	if err := errors.Join(s.file.Close(), l.o.FS.Remove(l.segmentPath(s.number))); err != nil {
		l.o.Logger.Debug("prepared segment stays behind", "dir", l.dir, "segment", s.number, "err", err)
	}
}

// notePrepared counts a prepared segment, or says once that there is none.
func (l *Log) notePrepared(err error) {
	failing := err != nil
	if was := l.noSpace.Swap(failing); was != failing {
		switch {
		case !failing:
			l.o.Logger.Info("write-ahead log can prepare segments again", "dir", l.dir)
		case vfs.IsNoSpaceError(err):
			l.o.Logger.Warn("no disk space for the next log segment; appends are refused when the current one is full", "dir", l.dir, "err", err)
		default:
			l.o.Logger.Error("cannot prepare the next log segment; appends are refused when the current one is full", "dir", l.dir, "err", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !failing {
		l.prepared++
	}
	l.updateGateLocked()
}

// updateGate refuses new credits while no segment is prepared and the current one is nearly full, so that what was
// already appended, or has its credit, still fits. Commit loop.
func (l *Log) updateGate(left int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roomLeft = left
	l.updateGateLocked()
}

// updateGateLocked compares the room with what can still come before the gate is looked at again: one full buffer
// that is being written while another fills, and the blocks around them (half a buffer: enough even when each record
// of 80 bytes becomes a block of its own).
func (l *Log) updateGateLocked() {
	buffer := int64(l.o.BufferBytes)
	gated := l.prepared == l.used && l.roomLeft < 2*buffer+buffer/2
	if gated == l.gated {
		return
	}
	l.gated = gated
	if gated {
		l.credit.Add(-biasGated)
		return
	}
	l.credit.Add(biasGated)
	l.wakeReserversLocked()
}

// TruncateBefore takes off the segments all of whose records are below lsn, oldest first; never the current one. What
// those records say must be on stable storage elsewhere. Any goroutine.
func (l *Log) TruncateBefore(lsn uint64) error {
	l.truncateMu.Lock()
	defer l.truncateMu.Unlock()
	for {
		s, ok := l.oldestBefore(lsn)
		if !ok {
			return nil
		}
		kept, err := l.dropSegment(s)
		if err != nil {
			return err
		}
		// One by one: a crash must never bring back an older segment without the one after it.
		if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
			return fmt.Errorf("wal: sync directory after removing segment %d: %w", s.number, err)
		}
		l.mu.Lock()
		l.segments = slices.Delete(l.segments, 0, 1)
		if kept != "" {
			l.retired = append(l.retired, kept) // not before: it must not come back as a segment once it is used again
		}
		l.mu.Unlock()
	}
}

func (l *Log) oldestBefore(lsn uint64) (segmentName, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life != started || len(l.segments) < 2 || l.segments[1].first > lsn {
		return segmentName{}, false
	}
	return l.segments[0], true
}
