package broadcast

import "sync"

// Streams lie in pages, so that growing moves none of them.
const pageSlots = 256

type slotPage [pageSlots]stream

// slots are the places of a worker's streams. Single owner: its worker, but for what Ready touches:
// pages, listed, and of a stream reuse, ready and listed are guarded by the inbox's mu. The worker
// alone changes pages and reuse, and so reads them without mu.
type slots struct {
	mu     *sync.Mutex // the inbox's
	pages  []*slotPage
	listed []uint32 // slots whose stream.ready is not empty, each once at most
	used   uint32   // slots ever used; slot 0 means none
	vacant []uint32 // of these, the free ones
}

func (s *slots) init(mu *sync.Mutex) { s.mu, s.used = mu, 1 }

// at is the stream in a slot.
func (s *slots) at(slot uint32) *stream { return &s.pages[slot/pageSlots][slot%pageSlots] }

// following is the stream of a follow.
func (s *slots) following(id followID) *stream { return s.at(uint32(id)) }

// allocate finds a free slot.
func (s *slots) allocate() *stream {
	if n := len(s.vacant); n > 0 {
		st := s.at(s.vacant[n-1])
		s.vacant = s.vacant[:n-1]
		return st
	}
	if int(s.used/pageSlots) == len(s.pages) {
		page := new(slotPage)
		s.mu.Lock()
		s.pages = append(s.pages, page)
		s.mu.Unlock()
	}
	st := s.at(s.used)
	st.slot = s.used
	s.used++
	return st
}

// releaseLocked gives a slot back. Late reports about its stream name a reuse that has passed.
func (s *slots) releaseLocked(st *stream) {
	*st = stream{slot: st.slot, reuse: (st.reuse + 1) & (1<<reuseBits - 1), listed: st.listed}
	s.vacant = append(s.vacant, st.slot)
}

// all calls yield for each stream. yield may release it.
func (s *slots) all(yield func(*stream) bool) {
	for slot := uint32(1); slot < s.used; slot++ {
		if st := s.at(slot); st.state != free && !yield(st) {
			return
		}
	}
}

func (s *slots) inUse() int { return int(s.used) - 1 - len(s.vacant) }

// report is a stream's readiness on its way to the worker.
type report struct {
	slot, reuse uint32
	ready       Readiness
}

// noteLocked notes what a stream is ready for. A stream that waits in the list only gains bits
// there, so the list is never longer than there are streams. False: there is no such stream any
// more.
func (s *slots) noteLocked(id StreamID, r Readiness) bool {
	slot := id.slot()
	if r == 0 || int(slot/pageSlots) >= len(s.pages) {
		return false
	}
	st := s.at(slot)
	if st.reuse != id.reuse() {
		return false
	}
	if !st.listed {
		st.listed = true
		s.listed = append(s.listed, slot)
	}
	st.ready |= r
	return true
}

// reportsLocked moves what was noted to reports.
func (s *slots) reportsLocked(reports []report) []report {
	for _, slot := range s.listed {
		st := s.at(slot)
		reports = append(reports, report{slot, st.reuse, st.ready})
		st.ready, st.listed = 0, false
	}
	s.listed = s.listed[:0]
	return reports
}
