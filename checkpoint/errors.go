package checkpoint

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// The errors a caller can act on. Test with errors.Is.
var (
	// ErrFailed: the store could not write its own bookkeeping. Only opening it again tells what is
	// on disk, so the process should stop. Nothing acknowledged is lost, since the log has it.
	ErrFailed = errors.New("checkpoint: the store failed")
	// ErrNoSpace: the disk has not enough room for a checkpoint. Nothing was written.
	ErrNoSpace = errors.New("checkpoint: no room")
)

// DamagedError says that a file of the store does not match its checksums. The log behind it may be
// whole, but it begins where the checkpoint ends.
type DamagedError struct {
	Path string // the damaged file
	Err  error  // what is wrong there
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("checkpoint: %s, a file of the checkpoint, is corrupt: %v", e.Path, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// readError makes a DamagedError of an error with which Pebble reports damage.
func readError(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return &DamagedError{Path: info.Path, Err: info.Details}
	}
	return err
}

// VersionError says that the store was written in a format that this binary does not read.
type VersionError struct {
	Path  string
	Found uint64 // the format version of what is there
	Reads uint64 // the only version that this binary reads
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("checkpoint: %s: format version %d, but this binary reads version %d",
		e.Path, e.Found, e.Reads)
}
