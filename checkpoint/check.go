package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/record"
)

// The files that a store consists of, beside its tables.
const (
	manifestPrefix = "MANIFEST-"
	markerPrefix   = "marker.manifest."
	formatPrefix   = "marker.format-version."
	optionsPrefix  = "OPTIONS-"
)

// optionsBegin is what options begin with.
const optionsBegin = "[Version]\n"

// newest returns the name with the highest number behind a prefix; empty: there is none.
func newest(names []string, prefix string) (found string) {
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && (found == "" || number(name) > number(found)) {
			found = name
		}
	}
	return found
}

// number is the number in the name of one of the files above, 0 when it has none.
func number(name string) uint64 {
	for _, prefix := range []string{manifestPrefix, markerPrefix, formatPrefix, optionsPrefix} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			digits, _, _ := strings.Cut(rest, ".")
			n, _ := strconv.ParseUint(digits, 10, 64)
			return n
		}
	}
	return 0
}

// checkFiles finds out whether the files are there that the store must have, tables aside: those
// are in the manifest, and Pebble compares. Only FILES can tell of a later part that is missing;
// a store of format version 1 has none.
func (s *Store) checkFiles(names []string) (err error) {
	if s.listed, err = s.keeper.read(); errors.Is(err, errChecksum) {
		return s.damaged(filesFile, inFiles, err)
	} else if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	must := s.keeper.now
	for _, c := range []struct{ prefix, name, what string }{
		{formatPrefix, must.format, inFormat},
		{markerPrefix, must.marker, inMarker},
		{optionsPrefix, must.options, inOptions},
	} {
		found := newest(names, c.prefix)
		other := found != c.name && number(found) == number(c.name)
		if found == "" || number(found) < number(c.name) || other {
			if c.name == "" {
				c.name = c.prefix + "*"
			}
			return s.damaged(c.name, c.what, errMissing)
		}
	}
	if err := s.checkManifest(newest(names, markerPrefix)); err != nil {
		return err
	}
	return s.checkOptions(newest(names, optionsPrefix))
}

// checkManifest reads the manifest that a marker names.
func (s *Store) checkManifest(marker string) error {
	_, name, _ := strings.Cut(strings.TrimPrefix(marker, markerPrefix), ".")
	must := s.keeper.now
	if !strings.HasPrefix(name, manifestPrefix) || number(name) < number(must.manifest) {
		return s.damaged(marker, inMarker, fmt.Errorf("it names %q, not %s", name, must.manifest))
	}
	size, readable, err := s.readManifest(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.damaged(name, inManifest, errMissing)
	case err != nil:
		return fmt.Errorf("checkpoint: %w", err)
	case name == must.manifest && size < must.manifestBytes:
		return s.damaged(name, inManifest,
			fmt.Errorf("it has %d bytes, and had %d at least", size, must.manifestBytes))
	case name == must.manifest && readable < must.manifestBytes, readable == 0:
		return s.damaged(name, inManifest,
			fmt.Errorf("it can be read up to byte %d of %d", readable, size))
	}
	return nil
}

// readManifest returns the size of a manifest and how much of it are whole records.
func (s *Store) readManifest(name string) (size, readable int64, err error) {
	f, err := s.o.FS.Open(s.o.FS.PathJoin(s.dir, name))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	r := record.NewReader(f, 0)
	for {
		rec, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, rec)
		}
		if err != nil {
			var refused syscall.Errno
			if errors.As(err, &refused) {
				return 0, 0, err
			}
			return info.Size(), readable, nil
		}
		readable = r.Offset()
	}
}

// checkOptions reads the options.
func (s *Store) checkOptions(name string) error {
	b, err := readFile(s.o.FS, s.o.FS.PathJoin(s.dir, name))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	must := s.keeper.now
	switch {
	case len(b) == 0:
		return s.damaged(name, inOptions, errors.New("it is empty"))
	case !bytes.HasPrefix(b, []byte(optionsBegin)):
		return s.damaged(name, inOptions, fmt.Errorf("it does not begin with %q", optionsBegin))
	case name != must.options: // written by a later start, which a crash ended
	case int64(len(b)) != must.optionsBytes:
		return s.damaged(name, inOptions,
			fmt.Errorf("it has %d bytes, and was made with %d", len(b), must.optionsBytes))
	case crc32.Checksum(b, castagnoli) != must.optionsSum:
		return s.damaged(name, inOptions, errChecksum)
	}
	return nil
}
