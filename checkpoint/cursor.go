package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// cursorPrefix stands before the name of a cursor, among the store's own keys.
const cursorPrefix = "\x00cursor/"

// Cursor returns how far a feed has got in the log, and whether it ever said so.
func (s *Store) Cursor(name string) (lsn uint64, found bool, err error) {
	return s.number([]byte(cursorPrefix + name))
}

// SetCursor keeps how far a feed has got. It is durable when SetCursor returns, and no part of the
// checkpoint: Commit does not wait for it. Without room on the disk it returns ErrNoSpace, as Room
// does: the store would fail.
func (s *Store) SetCursor(name string, lsn uint64) error {
	if err := s.Room(0); err != nil {
		return err
	}
	return s.setNumber([]byte(cursorPrefix+name), lsn)
}

// eachCursor calls fn with every cursor.
func (s *Store) eachCursor(fn func(name string, lsn uint64) error) error {
	end := []byte(cursorPrefix)
	end[len(end)-1]++
	db := s.db.Load()
	if db == nil {
		return nil
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(cursorPrefix), UpperBound: end})
	if err != nil {
		return fmt.Errorf("checkpoint: read %s: %w", s.dir, err)
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		if len(it.Value()) != 8 {
			err = s.damaged("", inStore, fmt.Errorf("%q has %d bytes, not 8", it.Key(), len(it.Value())))
			break
		}
		err = fn(string(it.Key()[len(cursorPrefix):]), binary.LittleEndian.Uint64(it.Value()))
	}
	return s.readError(errors.Join(err, it.Close()))
}
