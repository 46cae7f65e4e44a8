package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

const (
	segmentBuffers = 4       // a segment holds at least so many full buffers
	fillBytes      = 1 << 20 // zeros are synced in pieces of this size
	// zeroBytes is the size of the pieces in which zeros are written. In the large pages that
	// larger pieces make in the cache, later writes cost twice.
	zeroBytes = 64 << 10
)

// segmentName is a segment on disk as the Log remembers it.
type segmentName struct {
	number   uint64
	first    uint64 // LSN of its first record
	size     int64
	made     int64 // the size with which the file was made; 0: unknown
	recycled bool  // see segmentHeader
}

// segments lists the segments with records, and the current one. Any goroutine.
type segments struct {
	mu  sync.Mutex
	all []segmentName // guarded by mu; ascending
}

func (s *segments) list() []segmentName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// first returns the LSN of the oldest record that the segments hold or would hold; 0 when there is
// no segment.
func (s *segments) first() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return 0
	}
	return s.all[0].first
}

func (s *segments) add(name segmentName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, name)
}

func (s *segments) removeFirst() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.Delete(s.all, 0, 1)
}

func (s *segments) removeLast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = s.all[:len(s.all)-1]
}

// segment is a file that is being written. Single owner: the preparer, then the writer.
type segment struct {
	file   vfs.File
	number uint64
	size   int64 // of the file
	used   int64 // where the next block goes
	// writtenBack is the end of what the operating system was asked to write back.
	writtenBack int64
	recycled    bool // what lies behind the blocks may be another segment's
}

func (s *segment) left() int64 { return s.size - s.used }

// begin writes and syncs the header. It is durable before the first block, so a block in a segment
// without a valid header is damage, never the trace of a crash (W4).
func (s *segment) begin(first uint64, id uuid.UUID) error {
	s.used = 0
	h := segmentHeader{
		number: s.number, first: first, size: s.size, recycled: s.recycled, id: id,
	}
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
		return fmt.Errorf("wal: write %d bytes at offset %d of segment %d: %w",
			len(b), s.used, s.number, reason(err))
	}
	s.used += int64(len(b))
	return nil
}

func (s *segment) sync() error {
	if err := s.file.SyncData(); err != nil {
		return fmt.Errorf("wal: sync segment %d: %w", s.number, reason(err))
	}
	return nil
}

// reason leaves out of an error of an open file the name under which it was opened. It may have
// another one by now: a first segment is made as fresh.wal, a recycled one was called N.old.
func reason(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// create makes a file of zeros and its directory entry durable, so that later syncs have no
// metadata to write. It calls rest after each piece, with the bytes that are still to be filled and
// the time that the piece took the disk. On failure it leaves nothing behind: half a segment would
// keep the disk full.
func (d *directory) create(
	path string, number uint64, size int64, rest func(unfilled int64, took time.Duration),
) (_ *segment, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("wal: prepare segment %d of %d bytes: %w", number, size, err)
		}
	}()
	f, err := d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	if err := fill(f, size, rest); err != nil {
		return nil, errors.Join(err, f.Close(), d.fs.Remove(path))
	}
	if err := d.sync(); err != nil {
		return nil, errors.Join(err, f.Close(), d.fs.Remove(path))
	}
	return &segment{file: f, number: number, size: size}, nil
}

// fill writes zeros. Only written zeros help: blocks that were merely allocated cost a metadata
// write at the first sync.
func fill(f vfs.File, size int64, rest func(unfilled int64, took time.Duration)) error {
	// Asking for the whole size first finds a full disk before filling it. Any other answer is not
	// needed.
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
		// In pieces, with rests between them: tens of megabytes handed to the disk at once would
		// delay the commit loop's syncs, for a second or more.
		began := time.Now()
		if err := f.Sync(); err != nil {
			return err
		}
		rest(size-done, time.Since(began))
	}
	return nil
}
