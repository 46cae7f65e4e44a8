package checkpoint

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Keys returns how many keys the store holds, the few of its own included. It reads what each table
// says of itself, not the tables.
func (s *Store) Keys() (n uint64, err error) {
	db := s.db.Load()
	if db == nil { // there is no store yet
		return 0, nil
	}
	err = s.failure.do(func() error {
		levels, err := db.SSTables(pebble.WithProperties())
		for _, tables := range levels {
			for _, table := range tables {
				if table.Properties != nil {
					n += table.Properties.NumEntries
				}
			}
		}
		return err
	})
	if err != nil {
		return 0, s.readError(fmt.Errorf("checkpoint: properties of %s: %w", s.dir, err))
	}
	return n, nil
}
