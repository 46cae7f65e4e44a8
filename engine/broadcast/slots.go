package broadcast

import (
	"github.com/google/uuid"
)

// at is the stream in a slot.
func (w *worker) at(slot uint32) *stream {
	return &w.in.slots[slot/chunkSlots][slot%chunkSlots]
}

// allocate finds a free slot.
func (w *worker) allocate() *stream {
	if n := len(w.vacant); n > 0 {
		s := w.at(w.vacant[n-1])
		w.vacant = w.vacant[:n-1]
		return s
	}
	if int(w.slots/chunkSlots) == len(w.in.slots) {
		chunk := new(slotChunk)
		w.in.mu.Lock()
		w.in.slots = append(w.in.slots, chunk)
		w.in.mu.Unlock()
	}
	s := w.at(w.slots)
	s.slot = w.slots
	w.slots++
	return s
}

// free closes a stream's connection and gives its slot back. A stream that was ending keeps its first reason.
func (w *worker) free(s *stream, reason Reason) {
	if s.state == ending || s.state == shut {
		reason = s.reason
	}
	w.unlink(s)
	w.drop(s)
	if err := s.conn.Close(); err != nil {
		w.log.Debug("broadcast: close a stream's connection", "err", err)
	}
	w.stats.Closed[reason]++
	slot, reuse := s.slot, (s.reuse+1)&(1<<reuseBits-1)
	w.in.mu.Lock()
	*s = stream{slot: slot, reuse: reuse, listed: s.listed}
	w.in.streams--
	w.in.mu.Unlock()
	w.vacant = append(w.vacant, slot)
	w.b.leave()
}

// link puts a stream first among those of its user. A lap in progress does not come to it: it begins at W, which no
// frame of that lap is above.
func (w *worker) link(s *stream, id uuid.UUID, source Source) {
	u := w.users[id]
	if u == nil {
		through := w.through[source]
		u = &user{id: id, source: source, base: through, last: through}
		w.users[id] = u
	}
	u.mustBeOf(source)
	s.user, s.next, s.prev = u, u.first, 0
	if u.first != 0 {
		w.at(u.first).prev = s.slot
	}
	u.first = s.slot
	u.count++
}

// unlink takes a stream off its user: it will be told no more events.
func (w *worker) unlink(s *stream) {
	u := s.user
	if u == nil {
		return
	}
	if s.lagging {
		s.lagging = false
		w.stats.Lagging--
	}
	if u.cursor == s.slot {
		u.cursor = s.next
	}
	if s.prev == 0 {
		u.first = s.next
	} else {
		w.at(s.prev).next = s.next
	}
	if s.next != 0 {
		w.at(s.next).prev = s.prev
	}
	s.user, s.next, s.prev = nil, 0, 0
	if w.b.options.MaxStreamsPerUser > 0 {
		w.in.mu.Lock()
		w.in.perUser.leave(u.id)
		w.in.mu.Unlock()
	}
	if u.count--; u.count == 0 {
		w.release(u, u.last)
		delete(w.users, u.id)
		w.unwatch(u)
	}
}
