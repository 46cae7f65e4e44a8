package checkpoint

// clockKey holds the owner's clock, see SetClock.
var clockKey = []byte("\x00clock")

// SetClock keeps a reading of the owner's clock with the store, in unix milliseconds. It is durable
// when it returns. The goroutine that writes the checkpoint calls it.
func (s *Store) SetClock(ms uint64) error { return s.setNumber(clockKey, ms) }

// Clock returns what SetClock kept last; 0: nothing. Any goroutine.
func (s *Store) Clock() (ms uint64, err error) {
	ms, _, err = s.number(clockKey)
	return ms, err
}
