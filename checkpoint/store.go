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
	"github.com/google/uuid"
)

// Store is a checkpoint in a directory. Its life: Open, which only reads, Load and Secret, then
// Start, Replace and Commit, and Close. One goroutine writes the checkpoint; any may read, and keep
// cursors after Start.
type Store struct {
	o       Options
	dir     string
	failure *failure
	keeper  *keeper

	db       atomic.Pointer[pebble.DB] // nil: there is no store yet
	writable atomic.Bool               // db was opened for writing
	at       string                    // the directory in which it was; single writer: Start
	bytes    uint64                    // size on disk when it was opened for reading
	lsn      atomic.Uint64             // what the store is as of. Single writer: Commit

	// What Open found, and Start makes: the owner's goroutine.
	exists    bool
	listed    bool // there is a file FILES
	version   uint64
	id        uuid.UUID
	secret    []byte
	hasSecret bool // the secret is in the store
	started   bool

	using   sync.RWMutex // held by Bytes for reading, and while db is taken away
	writing sync.Mutex   // held while a table is written and ingested: its file has one name
}

// The keys of the store's own values. The owner's keys stand behind a prefix of their own.
var (
	versionKey = []byte("\x00version")
	idKey      = []byte("\x00id")
	lsnKey     = []byte("\x00lsn")
	secretKey  = []byte("\x00secret")
)

const (
	ownersPrefix  = 1
	formatVersion = 2
)

// maxOpenTables bounds the descriptors of the store: it is read from end to end at a start, and
// hardly ever after. Pebble takes 10 of them for itself.
const maxOpenTables = 74

// tableBlockBytes is what is read and compressed at a time. 8 KiB take half the calls of 4 KiB, and
// the devices of larger blocks compress worse.
const tableBlockBytes = 8 << 10

// Exists says that there is a store on the disk.
func (s *Store) Exists() bool { return s.exists }

// LSN is what the store is as of: it holds every change up to it.
func (s *Store) LSN() uint64 { return s.lsn.Load() }

// Load calls fn for each key in [lo, hi) in ascending order; hi nil means to the end. Key and value
// are valid during the call.
func (s *Store) Load(lo, hi []byte, fn func(key, value []byte) error) error {
	return s.each(inner(lo), innerEnd(hi), func(key, value []byte) error {
		return fn(key[1:], value)
	})
}

// each is Load between the store's own keys.
func (s *Store) each(lo, hi []byte, fn func(key, value []byte) error) error {
	db := s.db.Load()
	if db == nil {
		return nil
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return fmt.Errorf("checkpoint: read %s: %w", s.dir, err)
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		err = fn(it.Key(), it.Value())
	}
	return s.readError(errors.Join(err, it.Close()))
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
	if !s.writable.Load() {
		if s.started { // it failed
			return fmt.Errorf("checkpoint: %s is not open", s.dir)
		}
		panic("bug: the store was not started")
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	db := s.db.Load()
	path := s.o.FS.PathJoin(s.at, tableFile)
	n, err := s.writeTable(path, db.TableFormat(), items)
	if err != nil {
		return fmt.Errorf("checkpoint: write a range: %w", errors.Join(err, s.o.FS.Remove(path)))
	}
	err = s.failure.do(func() error {
		if n == 0 {
			return errors.Join(s.o.FS.Remove(path), db.Excise(context.Background(), span))
		}
		_, err := db.IngestAndExcise(context.Background(), []string{path}, nil, nil, span)
		return err
	})
	if err != nil {
		return fmt.Errorf("checkpoint: replace a range: %w", err)
	}
	if s.keeper.behind() { // Pebble has begun another manifest
		return s.keeper.write()
	}
	return nil
}

// writeTable writes a sorted table and syncs it.
func (s *Store) writeTable(
	path string, format sstable.TableFormat, items func(yield),
) (n int, err error) {
	file, err := s.o.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	table := sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{
		TableFormat: format, BlockSize: tableBlockBytes,
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
	return s.keeper.write()
}

// Bytes is the size of the store on disk. Any goroutine.
func (s *Store) Bytes() uint64 {
	s.using.RLock()
	defer s.using.RUnlock()
	if db := s.db.Load(); db != nil && s.writable.Load() {
		return db.Metrics().DiskSpaceUsage()
	}
	return s.bytes
}

// Failed returns a channel that is closed when the store cannot go on: the process should stop. Err
// says why. Any goroutine.
func (s *Store) Failed() <-chan struct{} { return s.failure.failed }

// Err returns why the store cannot go on, wrapped in ErrFailed; nil while it can. Any goroutine.
func (s *Store) Err() error { return s.failure.get() }

// Close closes the store. One that has failed stays as it is until the process ends.
func (s *Store) Close() error {
	if err := s.failure.get(); err != nil {
		return err
	}
	var err error
	if s.writable.Load() {
		err = s.keeper.write()
	}
	return errors.Join(err, s.closePebble())
}

func (s *Store) set(key, value []byte) error {
	after := append(key[:len(key):len(key)], 0)
	return s.replace(pebble.KeyRange{Start: key, End: after},
		func(yield yield) { yield(key, value) })
}

func (s *Store) setNumber(key []byte, n uint64) error {
	return s.set(key, binary.LittleEndian.AppendUint64(nil, n))
}

func (s *Store) get(key []byte) ([]byte, error) {
	db := s.db.Load()
	if db == nil {
		return nil, nil
	}
	value, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, s.readError(fmt.Errorf("checkpoint: read %s: %w", s.dir, err))
	}
	return append([]byte(nil), value...), closer.Close()
}

func (s *Store) number(key []byte) (n uint64, found bool, err error) {
	value, err := s.get(key)
	if err != nil || value == nil {
		return 0, false, err
	}
	n, err = s.decodeNumber(key, value)
	return n, err == nil, err
}

// decodeNumber is the number that a value of setNumber holds.
func (s *Store) decodeNumber(key, value []byte) (uint64, error) {
	if len(value) != 8 {
		return 0, s.damaged("", inStore, fmt.Errorf("%q has %d bytes, not 8", key, len(value)))
	}
	return binary.LittleEndian.Uint64(value), nil
}

func inner(key []byte) []byte { return append([]byte{ownersPrefix}, key...) }

func innerEnd(key []byte) []byte {
	if key == nil {
		return []byte{ownersPrefix + 1}
	}
	return inner(key)
}
