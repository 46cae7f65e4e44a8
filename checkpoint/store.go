package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Store is a checkpoint in a directory. One goroutine writes the checkpoint; any may read, and keep
// cursors and the secret.
type Store struct {
	o       Options
	dir     string
	db      *pebble.DB
	lsn     atomic.Uint64 // what the store is as of. Single writer: Commit
	failure *failure

	writing sync.Mutex // held while a table is written and ingested: its file has one name

	readOnly bool
}

// The keys of the store's own values. The owner's keys stand behind a prefix of their own.
var (
	versionKey = []byte("\x00version")
	lsnKey     = []byte("\x00lsn")
	secretKey  = []byte("\x00secret")
)

const (
	ownersPrefix  = 1
	formatVersion = 1
)

// maxOpenTables bounds the descriptors of the store: it is read from end to end at a start, and
// hardly ever after. Pebble takes 10 of them for itself.
const maxOpenTables = 74

// tableBlockBytes is what is read and compressed at a time. 8 KiB take half the calls of 4 KiB, and
// the devices of larger blocks compress worse.
const tableBlockBytes = 8 << 10

// Open opens the store in dir, or makes an empty one as of LSN 0. A *VersionError says that a later
// format wrote it, a *DamagedError that a file of it is damaged.
func Open(dir string, o Options) (*Store, error) { return open(dir, o, false) }

// OpenReadOnly is Open for a store that must exist and that nothing may change.
func OpenReadOnly(dir string, o Options) (*Store, error) { return open(dir, o, true) }

func open(dir string, o Options, readOnly bool) (_ *Store, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	s := &Store{o: o, dir: dir, failure: newFailure(o.Logger), readOnly: readOnly}
	options := &pebble.Options{
		FS:                 storeFS{o.FS, s.failure},
		DisableWAL:         true,
		MaxOpenFiles:       maxOpenTables,
		FormatMajorVersion: pebble.FormatNewest,
		ReadOnly:           readOnly,
		Logger:             s.failure,
		EventListener: &pebble.EventListener{
			// The reader gets an error as well. Pebble's own answer would be to end the process.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				o.Logger.Error("the checkpoint is damaged", "file", info.Path)
			},
		},
	}
	err = s.failure.do(func() (err error) { s.db, err = pebble.Open(dir, options); return err })
	if err != nil {
		return nil, readError(fmt.Errorf("checkpoint: open %s: %w", dir, err))
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// load reads the store's own values, and writes the version of a new store.
func (s *Store) load() error {
	version, found, err := s.number(versionKey)
	switch {
	case err != nil:
		return err
	case found && version > formatVersion:
		return &VersionError{Path: s.dir, Found: version, Reads: formatVersion}
	case !found && !s.readOnly:
		if err := s.setNumber(versionKey, formatVersion); err != nil {
			return err
		}
	}
	lsn, _, err := s.number(lsnKey)
	s.lsn.Store(lsn)
	return err
}

// LSN is what the store is as of: it holds every change up to it.
func (s *Store) LSN() uint64 { return s.lsn.Load() }

// Secret returns bytes that the owner keeps with the store: what fresh returns the first time, the
// same ever after.
func (s *Store) Secret(fresh func() []byte) ([]byte, error) {
	value, err := s.get(secretKey)
	if err != nil || value != nil {
		return value, err
	}
	if value = fresh(); s.readOnly {
		return value, nil
	}
	return value, s.set(secretKey, value)
}

// Load calls fn for each key in [lo, hi) in ascending order; hi nil means to the end. Key and value
// are valid during the call.
func (s *Store) Load(lo, hi []byte, fn func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: inner(lo), UpperBound: innerEnd(hi)})
	if err != nil {
		return fmt.Errorf("checkpoint: read %s: %w", s.dir, err)
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		err = fn(it.Key()[1:], it.Value())
	}
	return readError(errors.Join(err, it.Close()))
}

// Replace makes [lo, hi) hold exactly what items yields, which must be in ascending order of keys
// and within the range. It is durable when it returns, but part of a checkpoint only after Commit.
func (s *Store) Replace(lo, hi []byte, items func(yield func(key, value []byte) bool)) error {
	span := pebble.KeyRange{Start: inner(lo), End: innerEnd(hi)}
	return s.replace(span, func(yield yield) {
		var key []byte
		items(func(k, v []byte) bool {
			key = append(append(key[:0], ownersPrefix), k...)
			return yield(key, v)
		})
	})
}

// yield takes one key and its value; false: no more of them.
type yield = func(key, value []byte) bool

// replace is Replace with the store's own keys.
func (s *Store) replace(span pebble.KeyRange, items func(yield)) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	path := s.o.FS.PathJoin(s.dir, tableFile)
	n, err := s.writeTable(path, items)
	if err != nil {
		return fmt.Errorf("checkpoint: write a range: %w", errors.Join(err, s.o.FS.Remove(path)))
	}
	err = s.failure.do(func() error {
		if n == 0 {
			return errors.Join(s.o.FS.Remove(path), s.db.Excise(context.Background(), span))
		}
		_, err := s.db.IngestAndExcise(context.Background(), []string{path}, nil, nil, span)
		return err
	})
	if err != nil {
		return fmt.Errorf("checkpoint: replace a range: %w", err)
	}
	return nil
}

// writeTable writes a sorted table and syncs it.
func (s *Store) writeTable(path string, items func(yield)) (n int, err error) {
	file, err := s.o.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	table := sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{
		TableFormat: s.db.TableFormat(), BlockSize: tableBlockBytes,
	})
	items(func(k, v []byte) bool {
		err = table.Set(k, v)
		n++
		return err == nil
	})
	return n, errors.Join(err, table.Close())
}

// Room returns ErrNoSpace when the disk has not enough room for a range of n bytes and
// Options.SpareBytes. Pebble cannot go on when its own bookkeeping meets a full disk, so a
// checkpoint is not begun without.
func (s *Store) Room(n int64) error {
	usage, err := s.o.FS.GetDiskUsage(s.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("checkpoint: free space of %s: %w", s.dir, err)
	}
	if want := n + s.o.SpareBytes; usage.AvailBytes < uint64(want) {
		return fmt.Errorf("%w: %d bytes are left for the checkpoint, which wants %d",
			ErrNoSpace, usage.AvailBytes, want)
	}
	return nil
}

// Commit makes the store the checkpoint as of lsn: what was replaced since the last Commit must
// hold every change up to it, as must what was left alone. It is durable when Commit returns.
func (s *Store) Commit(lsn uint64) error {
	if err := s.setNumber(lsnKey, lsn); err != nil {
		return err
	}
	s.lsn.Store(lsn)
	return nil
}

// Bytes is the size of the store on disk.
func (s *Store) Bytes() uint64 { return s.db.Metrics().DiskSpaceUsage() }

// Failed returns a channel that is closed when the store cannot go on: the process should stop. Err
// says why. Any goroutine.
func (s *Store) Failed() <-chan struct{} { return s.failure.failed }

// Err returns why the store cannot go on, wrapped in ErrFailed; nil while it can. Any goroutine.
func (s *Store) Err() error { return s.failure.get() }

// Close closes the store. One that has failed stays as it is until the process ends.
func (s *Store) Close() error { return s.failure.do(s.db.Close) }

func (s *Store) set(key, value []byte) error {
	after := append(key[:len(key):len(key)], 0)
	return s.replace(pebble.KeyRange{Start: key, End: after},
		func(yield yield) { yield(key, value) })
}

func (s *Store) setNumber(key []byte, n uint64) error {
	return s.set(key, binary.LittleEndian.AppendUint64(nil, n))
}

func (s *Store) get(key []byte) ([]byte, error) {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: read %s: %w", s.dir, readError(err))
	}
	return append([]byte(nil), value...), closer.Close()
}

func (s *Store) number(key []byte) (n uint64, found bool, err error) {
	value, err := s.get(key)
	if err != nil || value == nil {
		return 0, false, err
	}
	if len(value) != 8 {
		return 0, false, fmt.Errorf("checkpoint: %q of %s has %d bytes, not 8",
			key, s.dir, len(value))
	}
	return binary.LittleEndian.Uint64(value), true, nil
}

func inner(key []byte) []byte { return append([]byte{ownersPrefix}, key...) }

func innerEnd(key []byte) []byte {
	if key == nil {
		return []byte{ownersPrefix + 1}
	}
	return inner(key)
}
