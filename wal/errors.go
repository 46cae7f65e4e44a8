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
	// ErrFailed: a write or a sync of the log failed. The log stays failed until the process is
	// restarted (W5).
	ErrFailed = errors.New("wal: failed")
	// ErrLocked: another process, or another Log of this one, uses the directory.
	ErrLocked = errors.New("wal: directory is in use")
	// ErrTooLarge: the record is longer than MaxRecord or than the commit buffer.
	ErrTooLarge = errors.New("wal: record too large")
)

// CorruptionError says that the log holds damage that is not the unfinished end of a crash: records
// that were promised durable cannot be read. It is never repaired silently, because that would lose
// acknowledged records.
type CorruptionError struct {
	Dir     string
	Segment uint64 // number of the damaged segment
	Path    string // its file
	Offset  int64  // where in the file reading stopped
	LSN     uint64 // the first record that cannot be read
	Err     error  // what is wrong there
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("wal: %s: corrupt at offset %d, first unreadable record %d: %v; "+
		"records before it are intact", e.Path, e.Offset, e.LSN, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

// MissingError says that a directory has a checkpoint but no segment. The log of a checkpoint is
// never without one, so it was taken away, and every record behind the checkpoint with it.
type MissingError struct {
	Dir   string
	After uint64 // what the checkpoint is as of
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("wal: %s has no log segment (*%s), but its checkpoint is as of record %d: "+
		"what was acknowledged after it is gone", e.Dir, segmentSuffix, e.After)
}

// VersionError says that a segment was written in a format that this binary does not read.
type VersionError struct {
	Path  string
	Found uint32 // the format version of what is there
	Reads uint32 // the only version that this binary reads
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("wal: %s: format version %d, but this binary reads version %d",
		e.Path, e.Found, e.Reads)
}
