package conns

import (
	"sync"
	"time"
)

const (
	// strangerGrace is how long a stranger stays at least: time for a request to arrive behind its
	// connection, so that daemons that come back all at once are answered in turn and do not take
	// each other's places.
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

	mu       sync.Mutex
	oldest   conn   // the ring: strangeNext is the oldest, strangePrev the newest. guarded by mu
	evicting int    // evicted, and not off the counts yet. guarded by mu
	evicted  uint64 // suspended ones too. guarded by mu
}

func (s *strangers) init() {
	s.began = time.Now()
	s.oldest.strangePrev, s.oldest.strangeNext = &s.oldest, &s.oldest
}

// add makes a connection the last one of the ring.
func (s *strangers) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(c)
}

func (s *strangers) addLocked(c *conn) {
	c.strangeSince = time.Since(s.began)
	c.strangePrev, c.strangeNext = s.oldest.strangePrev, &s.oldest
	c.strangePrev.strangeNext, c.strangeNext.strangePrev = c, c
}

// remove takes a connection out of the ring, if it is there. evicted: it was taken out to be
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

// waits makes a connection that is in the ring the last one: it begins to wait.
func (s *strangers) waits(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.strangeNext != nil {
		s.removeLocked(c)
		s.addLocked(c)
	}
}

// evict closes the stranger that waited longest, suspended or not, unless none has waited for
// strangerGrace. One that is served is off the counts when its goroutine has noticed; until then
// there is one more than the limit says.
func (s *strangers) evict(idle *idle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := time.Since(s.began) - strangerGrace
	c := s.oldest.strangeNext
	waits := c != &s.oldest && c.strangeSince <= before && s.evicting < maxEvicting
	if waits {
		before = c.strangeSince
	}
	if idle.evict(before) {
		s.evicted++
		return true
	}
	if !waits {
		return false
	}
	s.removeLocked(c)
	c.evicted = true
	s.evicting++
	s.evicted++
	_ = c.raw.Close() // wakes the goroutine that serves it
	return true
}

// left notes that an evicted connection is off the counts.
func (s *strangers) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evicting--
}

// stats returns how many connections over the limit there may be now, and how many were evicted.
func (s *strangers) stats() (evicting int, evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evicting, s.evicted
}
