package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The names of tables until Pebble has taken them in: one of the store's own values, and those of
// ranges, which are counted. No other file of the store's directory has a name like them.
const (
	valueFile   = "value.tmp"
	rangePrefix = "range"
	rangeFile   = rangePrefix + "-%d.tmp"
)

// isRange reports whether a file is a range's table that was not installed; range.tmp is one of
// an earlier version.
func isRange(name string) bool {
	return strings.HasPrefix(name, rangePrefix) && strings.HasSuffix(name, ".tmp")
}

// run is ranges that follow each other without a gap and were written but not installed: one
// operation of Pebble puts their tables in the place of all that was between their ends.
type run struct {
	span   pebble.KeyRange
	tables []string // paths; a range without keys has none
}

// Replace makes [lo, hi) hold exactly what items yields, which must be in ascending order of keys
// and within the range: from Install on, or Commit. Until then it is a synced table beside the
// store, which takes room on the disk and no memory. Ranges cost least in ascending order, without
// gaps. The goroutine that writes the checkpoint calls it.
func (s *Store) Replace(lo, hi []byte, items func(yield func(key, value []byte) bool)) error {
	if err := s.mustWrite(); err != nil {
		return err
	}
	span := pebble.KeyRange{Start: inner(lo), End: innerEnd(hi)}
	overlaps := func(r run) bool {
		return bytes.Compare(r.span.Start, span.End) < 0 &&
			bytes.Compare(span.Start, r.span.End) < 0
	}
	if slices.ContainsFunc(s.runs, overlaps) {
		if err := s.Install(); err != nil {
			return err
		}
	}
	path := s.o.FS.PathJoin(s.at, fmt.Sprintf(rangeFile, s.tables))
	n, err := s.writeTable(path, func(yield yield) {
		var key []byte
		items(func(k, v []byte) bool {
			key = append(append(key[:0], ownersPrefix), k...)
			return yield(key, v)
		})
	})
	if err != nil || n == 0 {
		err = errors.Join(err, s.o.FS.Remove(path))
	}
	if err != nil {
		return fmt.Errorf("checkpoint: write a range: %w", err)
	}
	if last := len(s.runs) - 1; last < 0 || !bytes.Equal(s.runs[last].span.End, span.Start) {
		s.runs = append(s.runs, run{span: span})
	}
	last := &s.runs[len(s.runs)-1]
	last.span.End = span.End
	if n > 0 {
		last.tables = append(last.tables, path)
		s.tables++
	}
	return nil
}

// Install puts what Replace wrote in its place, durably: ranges that follow each other as one, all
// of them or none. They are part of a checkpoint only after Commit. The goroutine that writes the
// checkpoint calls it, if only because it has no room for more tables beside the store.
func (s *Store) Install() error {
	if err := s.mustWrite(); err != nil {
		return err
	}
	for len(s.runs) > 0 {
		if err := s.ingest(s.runs[0].span, s.runs[0].tables); err != nil {
			return fmt.Errorf("checkpoint: replace ranges: %w", err)
		}
		s.runs = s.runs[1:]
	}
	s.runs, s.tables = nil, 0
	return nil
}

// Discard removes what Replace wrote and Install has not put in its place. The goroutine that
// writes the checkpoint calls it after an error, or when it goes no further.
func (s *Store) Discard() error {
	var errs []error
	for _, r := range s.runs {
		for _, path := range r.tables {
			errs = append(errs, s.o.FS.Remove(path))
		}
	}
	s.runs, s.tables = nil, 0
	return errors.Join(errs...)
}

// removeRanges removes the tables that a process left behind that was killed.
func (s *Store) removeRanges() error {
	names, err := s.o.FS.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if isRange(name) {
			err = errors.Join(err, s.o.FS.Remove(s.o.FS.PathJoin(s.dir, name)))
		}
	}
	return err
}

// mustWrite returns an error when the store was started and is not open; one that was not started
// is a mistake of the caller.
func (s *Store) mustWrite() error {
	if s.writable.Load() {
		return nil
	}
	if s.started { // it failed
		return fmt.Errorf("checkpoint: %s is not open", s.dir)
	}
	panic("bug: the store was not started")
}

// setValue replaces one of the store's own values, or removes it.
func (s *Store) setValue(span pebble.KeyRange, items func(yield)) error {
	if err := s.mustWrite(); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	path := s.o.FS.PathJoin(s.at, valueFile)
	n, err := s.writeTable(path, items)
	if err != nil || n == 0 {
		err = errors.Join(err, s.o.FS.Remove(path))
	}
	if err == nil {
		err = s.ingest(span, slices.Repeat([]string{path}, min(n, 1)))
	}
	if err != nil {
		return fmt.Errorf("checkpoint: write a value: %w", err)
	}
	return nil
}

// ingest puts tables, which may be none, in the place of all that was in a span: at once, durably.
func (s *Store) ingest(span pebble.KeyRange, tables []string) error {
	db := s.db.Load()
	err := s.failure.do(func() error {
		if len(tables) == 0 {
			return db.Excise(context.Background(), span)
		}
		_, err := db.IngestAndExcise(context.Background(), tables, nil, nil, span)
		return err
	})
	if err == nil && s.keeper.behind() { // Pebble has begun another manifest
		return s.keeper.write()
	}
	return err
}

// yield takes one key and its value; false: no more of them.
type yield = func(key, value []byte) bool

// writeTable writes a sorted table and syncs it.
func (s *Store) writeTable(path string, items func(yield)) (n int, err error) {
	file, err := s.o.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	table := sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{
		TableFormat: s.db.Load().TableFormat(), BlockSize: tableBlockBytes,
	})
	items(func(k, v []byte) bool {
		err = table.Set(k, v)
		n++
		return err == nil
	})
	return n, errors.Join(err, table.Close())
}
