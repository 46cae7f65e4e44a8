package checkpoint

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/internal/readonly"
)

// Open looks at the store in dir, for reading only: it changes nothing there, and has no way to. A
// directory that is absent or empty is a store as of LSN 0 that does not exist yet. A *VersionError
// says that a later format wrote the store, a *DamagedError that a file of it is missing, short or
// changed; what is in its tables is checked when it is read. Start makes the store writable.
func Open(dir string, o Options) (_ *Store, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	s := &Store{o: o, dir: dir, failure: newFailure(o.Logger)}
	s.keeper = &keeper{fs: o.FS, dir: dir}
	names, err := o.FS.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checkpoint: open %s: %w", dir, err)
	}
	if s.exists = slices.ContainsFunc(names, IsContent); !s.exists {
		return s, nil
	}
	if err := s.checkFiles(names); err != nil {
		return nil, err
	}
	db, err := s.openPebble(dir, readonly.FS{Base: o.FS})
	if err != nil {
		return nil, s.openError(err)
	}
	s.db.Store(db)
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.bytes = db.Metrics().DiskSpaceUsage()
	return s, nil
}

// openPebble opens Pebble's part of the store: for reading only over such a file system.
func (s *Store) openPebble(dir string, fsys vfs.FS) (db *pebble.DB, err error) {
	_, readOnly := fsys.(readonly.FS)
	options := &pebble.Options{
		FS:                 storeFS{fsys, s.failure, s.keeper},
		DisableWAL:         true,
		MaxOpenFiles:       maxOpenTables,
		FormatMajorVersion: pebble.FormatNewest,
		ReadOnly:           readOnly,
		Logger:             s.failure,
		EventListener: &pebble.EventListener{
			// The reader gets an error as well. Pebble's own answer would be to end the process.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.o.Logger.Error("the checkpoint is damaged", "file", info.Path)
			},
			ManifestCreated: func(info pebble.ManifestCreateInfo) {
				if info.Err == nil {
					s.keeper.moved()
				}
			},
		},
	}
	// Without the granter that wakes ten times a second, idle or not: it lets a compaction begin
	// that waits while another one runs, when more may run at a time than before. It begins after
	// that one as well.
	options.Experimental.CompactionScheduler =
		pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	if err := s.failure.do(func() (err error) {
		db, err = pebble.Open(dir, options)
		return err
	}); err != nil {
		return nil, err
	}
	return db, nil
}

// load reads the store's own values, all of them.
func (s *Store) load() (err error) {
	if s.version, err = s.wantNumber(versionKey); err != nil {
		return err
	}
	switch {
	case s.version > formatVersion:
		return &VersionError{Path: s.dir, Found: s.version, Reads: formatVersion}
	case s.version == 0:
		return s.damaged("", inStore, errNoVersion)
	case s.version >= 2 && !s.listed:
		return s.damaged(filesFile, inFiles, errMissing)
	}
	lsn, err := s.wantNumber(lsnKey)
	if err != nil {
		return err
	}
	s.lsn.Store(lsn)
	if s.secret, err = s.get(secretKey); err != nil {
		return err
	}
	s.hasSecret = s.secret != nil
	if err := s.loadID(); err != nil {
		return err
	}
	for _, key := range [][]byte{epochsKey, forgottenKey} {
		if _, err := s.get(key); err != nil {
			return err
		}
	}
	return s.eachCursor(func(string, uint64) error { return nil })
}

// wantNumber is number, 0 for none.
func (s *Store) wantNumber(key []byte) (uint64, error) {
	n, _, err := s.number(key)
	return n, err
}

// idLabel stands before the secret where the id of a store of format version 1 is made of it: such
// a store has the same id before, after and in the middle of its upgrade.
const idLabel = "rollcall: id of a data directory of format version 1\x00"

// loadID reads or makes the store's id.
func (s *Store) loadID() error {
	b, err := s.get(idKey)
	if err != nil {
		return err
	}
	switch {
	case len(b) == len(s.id):
		s.id = uuid.UUID(b)
	case b != nil || s.version >= 2:
		return s.damaged("", inStore, fmt.Errorf("its id has %d bytes, not %d", len(b), len(s.id)))
	case s.secret != nil:
		sum := sha256.Sum256(append([]byte(idLabel), s.secret...))
		s.id = uuid.UUID(sum[:len(s.id)])
	}
	return nil
}
