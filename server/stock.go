package server

import (
	"sync"
	"time"
)

// stockTrim is how often a stock lets go of what it did not need.
const stockTrim = 5 * time.Second

// stock keeps what is large for its next use, the one used last first. It is no sync.Pool, which
// holds what a burst needed until the collector has run twice: that may be minutes later. Any
// goroutine may use it.
type stock[T any] struct {
	make func() *T
	most int // that are kept

	mu       sync.Mutex
	free     []*T // guarded by mu
	unneeded int  // fewest that were free since the last trim; guarded by mu
	trimming bool // a trim will come; guarded by mu
}

func (s *stock[T]) get() *T {
	s.mu.Lock()
	n := len(s.free) - 1
	s.unneeded = min(s.unneeded, max(n, 0))
	if n < 0 {
		s.mu.Unlock()
		return s.make()
	}
	x := s.free[n]
	s.free[n] = nil
	s.free = s.free[:n]
	s.mu.Unlock()
	return x
}

func (s *stock[T]) put(x *T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < s.most {
		s.free = append(s.free, x)
	}
	if !s.trimming {
		s.trimming, s.unneeded = true, 0
		time.AfterFunc(stockTrim, s.trim)
	}
}

// trim lets go of those that were free all the time since the last one.
func (s *stock[T]) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := copy(s.free, s.free[s.unneeded:])
	clear(s.free[n:])
	s.free = s.free[:n]
	s.unneeded = n
	if s.trimming = n > 0; s.trimming {
		time.AfterFunc(stockTrim, s.trim)
	}
}
