package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/filelock"
)

// recycler keeps the file of a segment that TruncateBefore takes off the log under another name,
// and makes it the next one that is prepared: its blocks are allocated and written already, so
// nothing has to be filled with zeros, and the disk writes half as much. What lies in it is no
// block of its new number (W6), and its new header says that it may be there. W8 says when a file
// may be recycled.
//
//	00000000000000000007.wal ──rename, sync directory──► 00000000000000000007.old
//	                                                          │ not read; zero the header, sync
//	00000000000000000016.wal ◄──rename, sync directory────────┘
//
// The log takes no more room for it than it had at its largest: a file is made only when none is
// left. TruncateBefore calls drop and keep, the preparer recycle.
type recycler struct {
	dir  *directory
	size int64 // of the files that are kept: Options.SegmentBytes

	mu    sync.Mutex
	files []string // guarded by mu: paths of files to recycle
}

// maxRecycled bounds the files that are kept: with the default settings, more than a log has that
// grows by 100 MB/s.
const maxRecycled = 16

// drop takes a segment off the log. kept is the path under which its file is kept, "" when it is
// removed, as is one that a Reader has open (W8).
func (r *recycler) drop(s segmentName, open bool) (kept string, err error) {
	path := r.dir.segment(s.number)
	if !open && s.size == r.size && r.count() < maxRecycled {
		kept = r.dir.recycled(s.number)
		if r.dir.fs.Rename(path, kept) == nil {
			return kept, nil
		}
	}
	// Gone already: an earlier call removed or renamed it and could not sync the directory.
	if err := r.dir.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("wal: remove segment %d: %w", s.number, err)
	}
	return "", nil
}

// keep makes a file that drop kept available. Its renaming must be durable: the file must not come
// back under its old number once it is another segment (W8).
func (r *recycler) keep(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = append(r.files, path)
}

func (r *recycler) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.files)
}

// recycle makes a kept file the segment with a number. Nil: there is none that can be used.
func (r *recycler) recycle(number uint64, size int64) *segment {
	old := r.takeFile(size)
	if old == "" {
		return nil
	}
	f, err := r.rename(old, r.dir.segment(number))
	if err == nil {
		return &segment{file: f, number: number, size: size, recycled: true}
	}
	r.dir.logger.Debug("log file is not recycled", "file", old, "err", err)
	r.remove(old)
	return nil
}

var (
	errBeingRead = errors.New("it is being read")
	errNotWhole  = errors.New("its size changed")
)

// rename gives a kept file its new name, with a header of zeros, each step durable before the next.
func (r *recycler) rename(old, path string) (_ vfs.File, err error) {
	f, err := r.dir.fs.OpenReadWrite(old, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if info, err := f.Stat(); err != nil || info.Size() != r.size {
		return nil, errors.Join(errNotWhole, err) // opening makes a file where there is none
	}
	if !filelock.Exclusive(f) {
		return nil, errBeingRead
	}
	// A reader may have it from now on: under its new name it is the new segment.
	defer func() { filelock.Unlock(f) }()
	if _, err := f.WriteAt(make([]byte, segmentHeaderBytes), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := r.dir.fs.Rename(old, path); err != nil {
		return nil, err
	}
	if err := r.dir.sync(); err != nil {
		return nil, errors.Join(err, r.dir.fs.Remove(path))
	}
	return f, nil
}

// takeFile takes the file that was kept last, whose bytes are the likeliest to be in memory still.
func (r *recycler) takeFile(size int64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.files) - 1
	if last < 0 || size != r.size {
		return ""
	}
	path := r.files[last]
	r.files = r.files[:last]
	return path
}

func (r *recycler) remove(path string) {
	if err := r.dir.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.dir.logger.Debug("log file stays behind", "file", path, "err", err)
	}
}

// removeAll removes what an earlier life left, or this one at its end.
func (r *recycler) removeAll() error {
	numbers, err := r.dir.list(recycledSuffix)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		r.remove(r.dir.recycled(n))
	}
	return nil
}
