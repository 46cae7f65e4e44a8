package checkpoint

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
	return s.each([]byte(cursorPrefix), end, func(key, value []byte) error {
		lsn, err := s.decodeNumber(key, value)
		if err != nil {
			return err
		}
		return fn(string(key[len(cursorPrefix):]), lsn)
	})
}
