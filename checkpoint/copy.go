package checkpoint

import "slices"

// copyBytes is how much of a checkpoint is copied as one sorted table, and held in memory for it.
const copyBytes = 4 << 20

// CopyFrom makes a store that does not exist, starts it, and makes it hold what another one holds,
// its secret, its cursors and its history included, and be as of the same LSN. Its id is its own.
// CopyFrom calls copied with each key and value, which are valid during the call.
func (s *Store) CopyFrom(from *Store, copied func(key, value []byte)) error {
	s.secret = slices.Clone(from.secret)
	if err := s.Start(); err != nil {
		return err
	}
	if err := from.eachCursor(s.SetCursor); err != nil {
		return err
	}
	if err := s.copyHistory(from); err != nil {
		return err
	}
	var lo []byte
	var table tableBuffer
	err := from.Load(nil, nil, func(key, value []byte) error {
		if table.size >= copyBytes {
			if err := s.copyTable(lo, key, &table); err != nil {
				return err
			}
			lo = slices.Clone(key)
		}
		table.add(key, value)
		copied(key, value)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.copyTable(lo, nil, &table); err != nil {
		return err
	}
	clock, err := from.Clock()
	if err == nil && clock != 0 {
		err = s.SetClock(clock)
	}
	if err != nil {
		return err
	}
	return s.Commit(from.LSN())
}

// tableBuffer holds the keys and values of one table.
type tableBuffer struct {
	pairs [][2][]byte
	size  int
}

func (b *tableBuffer) add(key, value []byte) {
	b.pairs = append(b.pairs, [2][]byte{slices.Clone(key), slices.Clone(value)})
	b.size += len(key) + len(value)
}

// copyTable empties the buffer into [lo, hi).
func (s *Store) copyTable(lo, hi []byte, b *tableBuffer) error {
	if err := s.Room(int64(b.size)); err != nil {
		return err
	}
	err := s.Replace(lo, hi, func(yield func(key, value []byte) bool) {
		for _, p := range b.pairs {
			if !yield(p[0], p[1]) {
				return
			}
		}
	})
	*b = tableBuffer{pairs: b.pairs[:0]}
	return err
}
