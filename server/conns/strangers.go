package conns

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// strangerGrace is how long a stranger that was not answered yet stays at least: time for a
	// request to arrive behind its connection, so that daemons that come back all at once are
	// answered in turn and do not take each other's places. One that was answered has had its
	// chance to show a token.
	strangerGrace = 250 * time.Millisecond

	// maxEvicting is how many evicted connections may still have their descriptor at a time: until
	// the goroutine that serves one runs again.
	maxEvicting = 32
)

// strangers are the open connections, not suspended, that have not shown a valid token, in the
// order in which they began to wait: with the accept or with the end of a request. At the limit the
// one that waited longest makes room for a new connection (P8). Those that are suspended are in a
// ring of idle. Any goroutine may use it.
type strangers struct {
	began time.Time

	mu sync.Mutex
	// The rings: strangeNext is the oldest, strangePrev the newest. Those that were answered have
	// their own, since they have no grace. guarded by mu
	fresh, answered conn

	evicting int    // evicted, and not off the counts yet. guarded by mu
	evicted  uint64 // suspended ones too. guarded by mu
}

func (s *strangers) init() {
	s.began = time.Now()
	for _, ring := range []*conn{&s.fresh, &s.answered} {
		ring.strangePrev, ring.strangeNext = ring, ring
	}
}

// add makes a new connection the last one of its ring.
func (s *strangers) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(c, &s.fresh)
}

// addAnswered makes a connection that was answered before the last one of its ring.
func (s *strangers) addAnswered(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(c, &s.answered)
}

func (s *strangers) addLocked(c, ring *conn) {
	c.strangeSince = time.Since(s.began)
	c.strangePrev, c.strangeNext = ring.strangePrev, ring
	c.strangePrev.strangeNext, c.strangeNext.strangePrev = c, c
}

// remove takes a connection out of its ring, if it is in one. evicted: it was taken out to be
// closed.
func (s *strangers) remove(c *conn) (evicted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(c)
	return c.evicted
}

func (s *strangers) removeLocked(c *conn) {
	if c.strangeNext != nil {
		c.strangePrev.strangeNext, c.strangeNext.strangePrev = c.strangeNext, c.strangePrev
		c.strangePrev, c.strangeNext = nil, nil
	}
}

// waits notes that a connection, if it is in a ring, was answered and begins to wait.
func (s *strangers) waits(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.strangeNext != nil {
		s.removeLocked(c)
		s.addLocked(c, &s.answered)
	}
}

// evict closes the stranger that waited longest, suspended or not, unless all are within
// strangerGrace. One that is served is off the counts when its goroutine has noticed; until then
// there is one more than the limit says.
func (s *strangers) evict(loops *loops) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.oldestLocked()
	if s.evicting >= maxEvicting {
		c = nil
	}
	before := time.Since(s.began)
	if c != nil {
		before = c.strangeSince
	}
	if loops.evict(before) {
		s.evicted++
		return true
	}
	if c == nil {
		return false
	}
	s.removeLocked(c)
	c.evicted = true
	s.evicting++
	s.evicted++
	_ = c.raw.Close() // wakes the goroutine that serves it
	return true
}

// oldestLocked returns the connection of the rings that waited longest and may go; nil: there is
// none.
func (s *strangers) oldestLocked() (found *conn) {
	if c := s.answered.strangeNext; c != &s.answered {
		found = c
	}
	c := s.fresh.strangeNext
	if c != &s.fresh && c.strangeSince <= time.Since(s.began)-strangerGrace &&
		(found == nil || c.strangeSince < found.strangeSince) {
		found = c
	}
	return found
}

// left takes an evicted connection off the count of the open ones, and with the same step off those
// that may be one too many: between two steps a connection would get past the limit for good.
func (s *strangers) left(open *atomic.Int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evicting--
	open.Add(-1)
}

// stats returns how many connections over the limit there may be now, and how many were evicted.
func (s *strangers) stats() (evicting int, evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evicting, s.evicted
}
