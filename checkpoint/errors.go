package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"syscall"

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

// DamagedError says that a file of the store is missing, shorter than it was made, or does not
// match its checksums. Nothing was changed. The log behind it may be whole, but it begins where the
// checkpoint ends, unless Rebuild says otherwise.
type DamagedError struct {
	Path string // the damaged file, or the store's directory where no single file is known
	What string // what was in it, as far as is known
	Err  error  // what is wrong there
	// Rebuild says that the log beside the store reaches back to record 1: without the store, a
	// start makes everything again from the log (Options.Rebuild).
	Rebuild bool
	// Dir is the store's directory.
	Dir string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("checkpoint: %s, %s, is damaged: %v", e.Path, e.What, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// What was in a file of the store.
const (
	inStore    = "the checkpoint"
	inTable    = "devices of the checkpoint or values of its own"
	inManifest = "the list of the checkpoint's tables"
	inMarker   = "the name of the list of the checkpoint's tables"
	inFormat   = "the format of the checkpoint's tables"
	inOptions  = "the options of the checkpoint's tables"
	inFiles    = "the list of the files that the checkpoint must have"
)

var (
	errMissing   = errors.New("it is missing")
	errNoVersion = errors.New("it does not hold its format version")
)

// damaged makes a DamagedError of a file of the store.
func (s *Store) damaged(name, what string, err error) error {
	path := s.dir
	if name != "" {
		path = s.o.FS.PathJoin(s.dir, name)
	}
	return &DamagedError{Path: path, What: what, Err: err, Rebuild: s.o.Rebuild, Dir: s.dir}
}

// readError makes a DamagedError of an error with which Pebble reports damage while it reads.
func (s *Store) readError(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return &DamagedError{
			Path: info.Path, What: inTable, Err: info.Details, Rebuild: s.o.Rebuild, Dir: s.dir,
		}
	}
	return err
}

// openError says what it means that Pebble did not open the store: damage, unless the system
// refused.
func (s *Store) openError(err error) error {
	var refused syscall.Errno
	if errors.As(err, &refused) && refused != syscall.ENOENT || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("checkpoint: open %s: %w", s.dir, err)
	}
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return s.readError(err)
	}
	if found := tableError.FindStringSubmatch(err.Error()); found != nil {
		why := errMissing
		if found[2] != "" {
			why = fmt.Errorf("it has %s bytes, and was made with %s", found[2], found[3])
		}
		return s.damaged(found[1]+tableSuffix, inTable, why)
	}
	return s.damaged("", inStore, err)
}

// tableError is how Pebble says that a table is missing, or not of the size that its manifest has.
var tableError = regexp.MustCompile(`L\d: (\d{6,})(?:: object size mismatch \(.*?\): (\d+) \(disk\)` +
	` != (\d+) \(MANIFEST\))?`)

// tableSuffix is what the name of a table's file ends with.
const tableSuffix = ".sst"

// VersionError says that the store was written in a format that this binary does not read.
type VersionError struct {
	Path  string
	Found uint64 // the format version of what is there
	Reads uint64 // the highest version that this binary reads
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("checkpoint: %s: format version %d, but this binary reads versions up to %d",
		e.Path, e.Found, e.Reads)
}
