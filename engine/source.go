package engine

import (
	"sync"
	"sync/atomic"
)

// sourcePage is how many ids have their texts in one page.
const sourcePage = 1 << 10

// sources holds each distinct source text once and gives it an id of 32 bits, so that an entry
// holds no pointer. Ids live in memory only; the log carries the text.
//
// A text counts its references: one for each entry that has its id, and one for each heartbeat on
// its way to an entry. The last one to go takes the text with it. So there are never more texts
// than devices and heartbeats in flight: no number of texts, however many, is refused, and a user
// has at most as many as devices.
//
// A heartbeat that repeats its device's source, which nearly all do, compares it under the claim
// and takes no lock. For another one the acceptor takes a reference before the claim (I1). The
// commit passes it to the entry, and after the commit the acceptor releases the one that the entry
// had.
//
// A reader without the claim resolves an id that it read from an entry, and then looks whether the
// entry's LSN is still the same:
//
//	reader                           heartbeat of the device          any other
//	read entry: id 7, LSN 100
//	                                 commit: id 8, LSN 101
//	                                 release 7: its last reference
//	                                                                  take a new text: id 7
//	text of 7: the new one
//	LSN is 101, not 100: again
//
// An id is given to another text only after the commit that took it out of the entry, so an LSN
// that has not moved vouches for the text. Removal sets the LSN to 0 before the release.
type sources struct {
	// directory leads from an id to its text; nil before the first. Written under mu, before the
	// id is handed out; read without it by a goroutine that has read an entry with the id.
	directory atomic.Pointer[sourceDirectory]

	mu    sync.Mutex
	texts map[string]*sourceText // guarded by mu
	free  []uint32               // guarded by mu: ids that were given back
	used  uint32                 // guarded by mu: ids ever handed out; 0 means none
	bytes int64                  // guarded by mu: length of all texts
}

// sourceText is one text in use. text and id never change.
type sourceText struct {
	text       string
	id         uint32
	references uint32 // guarded by sources.mu
}

// sourceDirectory is the texts by id, in pages that are made when they are needed.
type sourceDirectory struct {
	pages []atomic.Pointer[[sourcePage]atomic.Pointer[sourceText]]
}

func newSources() *sources {
	return &sources{texts: make(map[string]*sourceText)}
}

// name returns the text of an id that the caller read from an entry. A reader that does not hold
// the claim checks the entry's LSN afterwards.
func (s *sources) name(id uint32) string {
	if t := s.find(id); t != nil {
		return t.text
	}
	return ""
}

// holds reports whether an id that the caller's claim keeps in use has this text. It takes no lock.
func (s *sources) holds(id uint32, text []byte) bool {
	t := s.find(id)
	return t != nil && t.text == string(text)
}

// find returns the text of an id that was handed out; nil: it has none any more, or the id is 0.
func (s *sources) find(id uint32) *sourceText {
	if id == 0 {
		return nil
	}
	return s.directory.Load().pages[id/sourcePage].Load()[id%sourcePage].Load()
}

// take returns the id of a text with so many new references.
func (s *sources) take(text []byte, references uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.texts[string(text)]
	if !ok {
		t = &sourceText{text: string(text), id: s.idLocked()}
		s.texts[t.text] = t
		s.bytes += int64(len(t.text))
		s.slotLocked(t.id).Store(t)
	}
	t.references += references
	return t.id
}

// release gives references to a text back; id 0 has none.
func (s *sources) release(id, references uint32) {
	if id == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slotLocked(id)
	t := slot.Load()
	if t == nil || t.references < references {
		panic("bug: a source has fewer references than are released")
	}
	if t.references -= references; t.references > 0 {
		return
	}
	delete(s.texts, t.text)
	s.bytes -= int64(len(t.text))
	slot.Store(nil)
	s.free = append(s.free, id)
}

// idLocked returns an id that no text has. There is always one: a table has room for half as many
// devices as there are ids.
func (s *sources) idLocked() uint32 {
	if n := len(s.free); n > 0 {
		id := s.free[n-1]
		s.free = s.free[:n-1]
		return id
	}
	s.used++
	if s.used == 0 {
		panic("bug: every id of a source is in use")
	}
	return s.used
}

// slotLocked returns where the text of an id stands, and makes the page of a new id.
func (s *sources) slotLocked(id uint32) *atomic.Pointer[sourceText] {
	d, i := s.directory.Load(), int(id/sourcePage)
	if d == nil || i >= len(d.pages) {
		d = d.doubled(i)
		s.directory.Store(d)
	}
	page := d.pages[i].Load()
	if page == nil {
		page = new([sourcePage]atomic.Pointer[sourceText])
		d.pages[i].Store(page)
	}
	return &page[id%sourcePage]
}

// doubled returns a copy of at least twice the length, which holds the i-th page.
func (d *sourceDirectory) doubled(i int) *sourceDirectory {
	if d == nil {
		d = new(sourceDirectory)
	}
	longer := &sourceDirectory{
		make([]atomic.Pointer[[sourcePage]atomic.Pointer[sourceText]], max(2*len(d.pages), i+1)),
	}
	for i := range d.pages {
		longer.pages[i].Store(d.pages[i].Load())
	}
	return longer
}

// size returns how many texts there are, and their length together.
func (s *sources) size() (texts int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.texts), s.bytes
}
