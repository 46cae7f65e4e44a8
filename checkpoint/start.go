package checkpoint

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"rollcall/internal/dirsync"
)

// freshSuffix is what the name of a store ends with that is being made. What a crash leaves under
// such a name means nothing.
const freshSuffix = ".fresh"

// Start makes the store writable, and only now changes anything on the disk. A store that does not
// exist is made under another name and renamed when it is whole, so that a directory with a store's
// name and without a store is damage. A store of an older format version becomes one of
// formatVersion. It is called once, by the owner. After an error only Close may be called.
func (s *Store) Start() error {
	if s.started {
		panic("bug: the store was started before")
	}
	s.started = true
	if s.id == uuid.Nil {
		s.id = uuid.New()
	}
	if err := s.start(); err != nil {
		return fmt.Errorf("checkpoint: start %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) start() error {
	if err := s.o.FS.RemoveAll(s.dir + freshSuffix); err != nil {
		return err
	}
	if !s.exists {
		if err := s.create(); err != nil {
			return err
		}
	}
	if err := s.closePebble(); err != nil {
		return err
	}
	if err := s.removeRanges(); err != nil {
		return err
	}
	if err := s.openWritable(s.dir); err != nil {
		return err
	}
	s.exists = true
	return nil
}

// create makes a whole store, closes it and gives it its name.
func (s *Store) create() error {
	fresh := s.dir + freshSuffix
	if _, err := dirsync.Create(s.o.FS, fresh); err != nil {
		return err
	}
	s.keeper.dir = fresh
	if err := s.openWritable(fresh); err != nil {
		return err
	}
	if err := s.closePebble(); err != nil {
		return err
	}
	s.keeper.dir = s.dir
	// An empty directory, or one with a lock alone.
	if err := s.o.FS.RemoveAll(s.dir); err != nil {
		return err
	}
	if err := s.o.FS.Rename(fresh, s.dir); err != nil {
		return err
	}
	return dirsync.Sync(s.o.FS, s.o.FS.PathDir(s.dir))
}

// openWritable opens the store in dir for writing, and makes it one of formatVersion whose FILES
// names what is there now.
func (s *Store) openWritable(dir string) error {
	db, err := s.openPebble(dir, s.o.FS)
	if err != nil {
		return err
	}
	s.at = dir
	s.db.Store(db)
	s.writable.Store(true)
	// Options and format first: until FILES is written again it names what was before.
	if err := s.keeper.settle(); err != nil {
		return err
	}
	if err := s.upgrade(); err != nil {
		return err
	}
	return s.keeper.write()
}

// closePebble closes Pebble's part of the store, if it is open.
func (s *Store) closePebble() error {
	s.using.Lock()
	s.writable.Store(false)
	db := s.db.Swap(nil)
	s.using.Unlock()
	if db == nil {
		return nil
	}
	return s.failure.do(db.Close)
}

// upgrade writes the values that a store of formatVersion has and this one lacks. The version comes
// last, behind a list of the files that must be there: since version 2 neither can be missing.
func (s *Store) upgrade() error {
	if s.secret != nil && !s.hasSecret {
		if err := s.set(secretKey, s.secret); err != nil {
			return err
		}
		s.hasSecret = true
	}
	if s.version == formatVersion {
		return nil
	}
	if s.version < 2 {
		if err := s.set(idKey, s.id[:]); err != nil {
			return err
		}
		if err := s.keeper.write(); err != nil {
			return err
		}
	}
	if err := s.setNumber(versionKey, formatVersion); err != nil {
		return err
	}
	s.version = formatVersion
	return nil
}

// ID returns the id of the data directory that the store belongs to; Nil when there is no store, or
// one of format version 1 without a secret.
func (s *Store) ID() uuid.UUID { return s.id }

// ErrOtherID says that a store has an id already, and another one.
var ErrOtherID = errors.New("checkpoint: the store belongs to another directory")

// SetID says which data directory a store belongs to that does not say so itself. Before Start,
// which makes an id where none was set.
func (s *Store) SetID(id uuid.UUID) error {
	if s.id != uuid.Nil && s.id != id {
		return fmt.Errorf("%w: %s, not %s", ErrOtherID, s.id, id)
	}
	s.id = id
	return nil
}

// Secret returns bytes that the owner keeps with the store: what fresh returns the first time, the
// same ever after. Before Start they are kept in memory until Start writes them.
func (s *Store) Secret(fresh func() []byte) ([]byte, error) {
	if s.secret == nil {
		s.secret = fresh()
		if s.started {
			if err := s.set(secretKey, s.secret); err != nil {
				return nil, err
			}
			s.hasSecret = true
		}
	}
	return slices.Clone(s.secret), nil
}
