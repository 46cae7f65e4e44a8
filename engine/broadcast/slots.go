package broadcast

import (
	"errors"
	"syscall"

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

// drop forgets a stream's backlog.
func (w *worker) drop(s *stream) {
	if s.backlog != nil {
		w.stats.PendingBytes -= cap(s.backlog.bytes)
		w.stats.BlockedNow--
		s.backlog = nil
	}
}

// link puts a stream first among those of its user. A lap in progress does not come to it: it begins at W, which no
// frame of that lap is above.
func (w *worker) link(s *stream, id uuid.UUID) {
	u := w.users[id]
	if u == nil {
		u = &user{id: id, base: w.through, last: w.through}
		w.users[id] = u
	}
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
	if u.count--; u.count == 0 {
		w.release(u, u.last)
		delete(w.users, u.id)
	}
}

// send writes bytes, or what of them fits; the rest becomes the backlog. To a backlog they are added.
func (w *worker) send(s *stream, bytes []byte) {
	if len(bytes) == 0 {
		return
	}
	if s.backlog != nil {
		before := cap(s.backlog.bytes)
		s.backlog.add(bytes)
		w.stats.PendingBytes += cap(s.backlog.bytes) - before
		return
	}
	n, ok := w.write(s, bytes)
	if !ok || n == len(bytes) {
		return
	}
	rest := bytes[n:]
	if w.stats.PendingBytes+len(rest) > w.b.options.PendingBytes {
		w.free(s, Overload)
		return
	}
	s.backlog = &backlog{bytes: append([]byte(nil), rest...)}
	s.wrote = w.now // its time runs from here
	w.stats.PendingBytes += cap(s.backlog.bytes)
	w.stats.BlockedNow++
}

// flush writes from the backlog. False: the stream has ended.
func (w *worker) flush(s *stream) bool {
	if s.backlog == nil {
		return true
	}
	n, ok := w.write(s, s.backlog.bytes[s.backlog.sent:])
	if !ok {
		return false
	}
	s.backlog.sent += n
	if s.backlog.left() > 0 {
		return true
	}
	w.drop(s)
	if s.lagging {
		s.lagging = false
		w.stats.Lagging--
	}
	return true
}

// write is one write to the connection. False: it failed, and the stream has ended.
func (w *worker) write(s *stream, bytes []byte) (n int, ok bool) {
	n, err := s.conn.Write(bytes)
	w.stats.Writes++
	w.stats.Bytes += uint64(n)
	if err != nil {
		w.free(s, reasonOf(err))
		return n, false
	}
	if n > 0 {
		s.wrote = w.now
	}
	if n < len(bytes) {
		w.stats.Blocked++
	}
	return n, true
}

// reasonOf tells a client that is gone from a failure of ours.
func reasonOf(err error) Reason {
	for _, gone := range []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, errClosed} {
		if errors.Is(err, gone) {
			return ClientGone
		}
	}
	return Failed
}

// end tells a stream that it is over. It is told no more events; its connection is closed once the client has read
// the end, or has had its time.
func (w *worker) end(s *stream, reason Reason) {
	w.unlink(s)
	s.state, s.reason, s.ends = ending, reason, 0
	w.send(s, w.endText(s, reason))
	if s.state == ending && s.backlog == nil {
		w.shut(s)
	}
}

// shut closes our side and leaves the client some time to close its own: closing at once could reset the connection
// before the client has read the end.
func (w *worker) shut(s *stream) {
	if err := s.conn.CloseWrite(); err != nil {
		w.free(s, reasonOf(err))
		return
	}
	s.state, s.ends = shut, w.after(lingerTime)
	w.file(s)
}
