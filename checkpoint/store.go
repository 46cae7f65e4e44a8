package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
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
	writing sync.Mutex   // held while a value is written and ingested: its file has one name

	// What Replace wrote, in the order in which it did: the goroutine that writes the checkpoint.
	runs   []run
	tables int // how many of them: a file's name is its number
}

// The keys of the store's own values. The owner's keys stand behind a prefix of their own.
var (
	versionKey = []byte("\x00version")
	idKey      = []byte("\x00id")
	lsnKey     = []byte("\x00lsn")
	secretKey  = []byte("\x00secret")
)

const (
	ownersPrefix = 1
	// formatVersion 3 says in the owner's values what versions 2 and 1 did not; the store itself is
	// as in version 2.
	formatVersion = 3
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

// InLog is false: the store has files of its own.
func (s *Store) InLog() bool { return false }

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

// Room returns ErrNoSpace when the disk has not enough room for a range of n bytes and
// Options.SpareBytes. Pebble cannot go on when its own bookkeeping meets a full disk, so a
// checkpoint is not begun without. What ranges that were not installed take is not free; what was
// replaced is, though it may take a moment: Room waits for it, a second at most.
func (s *Store) Room(n int64) error {
	want := uint64(n + s.o.SpareBytes)
	for tries := 0; ; tries++ {
		usage, err := s.o.FS.GetDiskUsage(s.dir)
		switch {
		case errors.Is(err, vfs.ErrUnsupported):
			return nil
		case err != nil:
			return fmt.Errorf("checkpoint: free space of %s: %w", s.dir, err)
		case usage.AvailBytes >= want:
			return nil
		case tries == 100 || !s.removing():
			return fmt.Errorf("%w: %d bytes are left for the checkpoint, which wants %d",
				ErrNoSpace, usage.AvailBytes, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// removing reports whether tables that were replaced are being removed from the disk.
func (s *Store) removing() bool {
	s.using.RLock()
	defer s.using.RUnlock()
	if !s.writable.Load() {
		return false
	}
	db, tables := s.db.Load(), int64(0)
	err := s.failure.do(func() error {
		tables = db.Metrics().Table.ObsoleteCount
		return nil
	})
	return err == nil && tables > 0
}

// Commit installs what was replaced and makes the store the checkpoint as of lsn: what was replaced
// since the last Commit must hold every change up to it, as must what was left alone. It is durable
// when Commit returns.
func (s *Store) Commit(lsn uint64) error {
	if err := s.Install(); err != nil {
		return err
	}
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
	err := s.Discard()
	if s.writable.Load() {
		err = errors.Join(err, s.keeper.write())
	}
	return errors.Join(err, s.closePebble())
}

func (s *Store) set(key, value []byte) error {
	after := append(key[:len(key):len(key)], 0)
	return s.setValue(pebble.KeyRange{Start: key, End: after},
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
