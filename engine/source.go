package engine

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/engine/table"
)

// errSourcesFull refuses a heartbeat whose source would be the 65,536th in use.
var errSourcesFull = errors.New("too many different sources are in use")

const (
	maxSources = 1<<16 - 1 // id 0 means none
	namePage   = 1 << 10   // ids whose names are kept together
	// sweepEvery keeps a full table from being swept for every heartbeat that it refuses. A sweep
	// reads each entry once.
	sweepEvery = 10 * time.Second
)

// sources gives each distinct source text a 16-bit id, so that an entry holds no pointer. Ids live
// in memory only; the log carries the text.
//
// A heartbeat that repeats its device's source, which nearly all do, compares it under the claim
// and takes no lock. A new text is interned under mu, before the claim, and stays pinned until the
// entry that holds it is committed. When the ids run out, a sweep frees those that no entry holds
// and no heartbeat pins.
type sources struct {
	// names are the texts of the ids in use, in pages that are made when they are needed. Written
	// under mu; read without it by a goroutine that has read an entry with the id.
	names [(maxSources + 1) / namePage]atomic.Pointer[names]

	mu      sync.Mutex
	ids     map[string]uint16 // guarded by mu
	pins    map[uint16]int    // guarded by mu: interned, not yet committed to an entry
	free    []uint16          // guarded by mu
	used    int               // guarded by mu: ids ever handed out
	sweptAt int64             // guarded by mu: nanoseconds

	// recovering lifts sweepEvery: replay takes up in a second what heartbeats brought in a year,
	// and what was accepted then must fit now. Set while recovery runs alone.
	recovering bool
}

// names are the texts of some ids.
type names [namePage]atomic.Pointer[string]

func newSources() *sources {
	return &sources{ids: make(map[string]uint16), pins: make(map[uint16]int)}
}

// name returns the text of an id that the caller read from an entry. The entry may have moved on
// and the id may have been given to another text since: a reader that does not hold the claim
// checks the entry's LSN afterwards.
func (s *sources) name(id uint16) string {
	if p := s.text(id); p != nil {
		return *p
	}
	return ""
}

// text returns the text of an id, nil if it has none.
func (s *sources) text(id uint16) *string {
	page := s.names[id/namePage].Load()
	if page == nil {
		return nil
	}
	return page[id%namePage].Load()
}

// setTextLocked gives an id a text, or nil to take it away.
func (s *sources) setTextLocked(id uint16, text *string) {
	page := &s.names[id/namePage]
	if page.Load() == nil {
		page.Store(new(names))
	}
	page.Load()[id%namePage].Store(text)
}

// holds reports whether an id that the caller holds has this text. It takes no lock: nearly every
// heartbeat repeats its device's source.
func (s *sources) holds(id uint16, text []byte) bool {
	p := s.text(id)
	return p != nil && *p == string(text)
}

// intern returns the id of text and pins it. Every successful intern is followed by one unpin,
// after the entry's commit.
func (s *sources) intern(text []byte, t *table.Table, nowNanos int64) (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.ids[string(text)]; ok {
		s.pins[id]++
		return id, nil
	}
	if s.used == maxSources && len(s.free) == 0 {
		s.sweepLocked(t, nowNanos)
	}
	var id uint16
	switch n := len(s.free); {
	case n > 0:
		id, s.free = s.free[n-1], s.free[:n-1]
	case s.used < maxSources:
		s.used++
		id = uint16(s.used)
	default:
		return 0, errSourcesFull
	}
	name := string(text)
	s.setTextLocked(id, &name)
	s.ids[name] = id
	s.pins[id]++
	return id, nil
}

func (s *sources) unpin(id uint16) {
	s.mu.Lock()
	if s.pins[id]--; s.pins[id] == 0 {
		delete(s.pins, id)
	}
	s.mu.Unlock()
}

// sweepLocked frees the ids that no entry holds. An entry takes up an id that it does not already
// hold only while that id is pinned, and intern is shut out meanwhile: so an id that is neither
// pinned nor found in the walk stays unheld.
func (s *sources) sweepLocked(t *table.Table, nowNanos int64) {
	if !s.recovering && s.sweptAt != 0 && nowNanos-s.sweptAt < int64(sweepEvery) {
		return
	}
	s.sweptAt = nowNanos
	held := make([]bool, maxSources+1)
	t.Range(func(_ table.Ref, e *table.Entry) bool {
		if st, ok := e.Load(); ok {
			held[st.Source] = true
		}
		return true
	})
	for name, id := range s.ids {
		if !held[id] && s.pins[id] == 0 {
			delete(s.ids, name)
			s.setTextLocked(id, nil)
			s.free = append(s.free, id)
		}
	}
}
