package wal

import (
	"errors"
	"fmt"
)

// The errors a caller can act on. Test with errors.Is.
var (
	// ErrClosed: Close was called, or the log was never started.
	ErrClosed = errors.New("wal: closed")
	// ErrFull: no credit came free within the caller's maxWait. Nothing was appended; try again
	// later.
	ErrFull = errors.New("wal: buffers full")
	// ErrNoSpace: the next segment cannot be prepared and the current one is nearly used up.
	// Nothing was appended. The log keeps trying and resumes by itself.
	ErrNoSpace = errors.New("wal: no room for the next segment")
	// ErrStalled: the disk has not finished a commit for some seconds. A record that was appended
	// may be stored or not. The log goes on by itself when the disk does.
	ErrStalled = errors.New("wal: the disk does not finish a commit")
	// ErrFailed: a write or a sync of the log failed. The log stays failed until the process is
	// restarted (W5).
	ErrFailed = errors.New("wal: failed")
	// ErrLocked: another process, or another Log of this one, uses the directory.
	ErrLocked = errors.New("wal: directory is in use")
	// ErrMoved: the path does not lead to the log's directory any more. Wrapped in ErrFailed. What
	// is there now was not touched.
	ErrMoved = errors.New("wal: the directory was removed or replaced")
	// ErrReplaced: the control file, or the newest segment, was removed or replaced while the log
	// worked on it. Wrapped in ErrFailed.
	ErrReplaced = errors.New("wal: a file was removed or replaced under the log")
	// ErrIncomplete: the directory is a copy that was not finished.
	ErrIncomplete = errors.New("wal: the directory is a copy that was never finished")
	// ErrTooLarge: the record is longer than MaxRecord or than the commit buffer.
	ErrTooLarge = errors.New("wal: record too large")
)

// CorruptionError says that the log holds damage that is not the unfinished end of a crash: records
// that were promised durable cannot be read. It is never repaired silently, because that would lose
// acknowledged records.
type CorruptionError struct {
	Dir     string
	Segment uint64 // number of the damaged segment; 0: it is the control file
	Path    string // the damaged or missing file
	Offset  int64  // where in the file reading stopped
	LSN     uint64 // the first record that cannot be read; 0: it is not known
	Err     error  // what is wrong there
}

func (e *CorruptionError) Error() string {
	if errors.Is(e.Err, errFileMissing) {
		return fmt.Sprintf("wal: %s: %v", e.Path, e.Err)
	}
	if e.LSN == 0 {
		return fmt.Sprintf("wal: %s: corrupt at offset %d: %v", e.Path, e.Offset, e.Err)
	}
	return fmt.Sprintf("wal: %s: corrupt at offset %d, first unreadable record %d: %v; "+
		"records before it are intact", e.Path, e.Offset, e.LSN, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

// MissingError says that a directory has a checkpoint or a control file but no segment. They are
// never without one, so the log was taken away, and every record behind the checkpoint with it.
type MissingError struct {
	Dir    string
	After  uint64 // what the checkpoint is as of
	Newest uint64 // number of the segment that was begun last; 0: not known
}

func (e *MissingError) Error() string {
	known := ""
	if e.Newest > 0 {
		known = fmt.Sprintf(" (%s knows segment %d)", ControlName, e.Newest)
	}
	if e.After == 0 {
		return fmt.Sprintf("wal: %s has no log segment (*%s)%s: what was acknowledged is gone",
			e.Dir, segmentSuffix, known)
	}
	return fmt.Sprintf("wal: %s has no log segment (*%s)%s, but its checkpoint is as of record %d: "+
		"what was acknowledged after it is gone", e.Dir, segmentSuffix, known, e.After)
}

// VersionError says that a segment was written in a format that this binary does not read.
type VersionError struct {
	Path  string
	Found uint32 // the format version of what is there
	Reads uint32 // the newest version that this binary reads
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("wal: %s: format version %d, but this binary reads up to version %d",
		e.Path, e.Found, e.Reads)
}
