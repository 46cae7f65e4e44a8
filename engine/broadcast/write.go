package broadcast

import (
	"errors"
	"syscall"
)

// backlog is what a stream was owed when its connection took no more: whole chunks, but for the
// first.
type backlog struct {
	bytes []byte
	sent  int // of bytes
	held  int // bytes in the system's memory before these, when a write last did not fit
}

func (b *backlog) left() int { return len(b.bytes) - b.sent }

// add appends a chunk, moving what is left to the front when that makes room.
func (b *backlog) add(p []byte) {
	if b.sent > 0 && len(b.bytes)+len(p) > cap(b.bytes) {
		n := copy(b.bytes, b.bytes[b.sent:])
		b.bytes, b.sent = b.bytes[:n], 0
	}
	b.bytes = append(b.bytes, p...)
}

// size is what the backlog costs in memory, the system's included.
func (b *backlog) size() int { return cap(b.bytes) + b.held }

// writer writes to connections and keeps in backlogs, within their bounds (B6), what they do not
// take. What the system holds for a client that takes nothing counts as well: it is as much memory.
// Single owner: the worker. It closes no stream: it returns the reason when one has to end, and
// true when none has to.
type writer struct {
	clock        *clock
	backlogLimit int              // bytes of one stream's backlog
	pendingLimit int              // bytes of all backlogs
	pending      map[*user]int    // bytes of the user's; without those that have none
	owners       map[[16]byte]int // the same of the owners of list streams
	stats        *Stats
}

// room is how many bytes may be added to what a stream is sent.
func (w *writer) room(s *stream) int {
	if s.backlog == nil {
		return w.backlogLimit
	}
	return min(w.backlogLimit-s.backlog.left(), w.pendingRoom(s))
}

// pendingRoom is how many bytes more may be pending for a stream. The streams of one user have half
// of the room at most, and so have the list streams of one owner: else one that is followed by many
// clients that do not read would have the streams of others closed.
func (w *writer) pendingRoom(s *stream) int {
	room := w.pendingLimit - w.stats.PendingBytes
	if u := s.follow.user; u != nil {
		room = min(room, w.pendingLimit/2-w.pending[u])
	} else if l := s.list; l != nil {
		room = min(room, w.pendingLimit/2-w.owners[l.owner])
	}
	return room
}

// pend counts what became pending for a stream, or is no more.
func (w *writer) pend(s *stream, bytes int) {
	w.stats.PendingBytes += bytes
	w.share(s, bytes)
}

// share counts what is pending for the streams of a user, or of the owner of list streams. A stream
// that follows none has no share.
func (w *writer) share(s *stream, bytes int) {
	if u := s.follow.user; u != nil {
		count(w.pending, u, bytes)
	} else if s.list != nil {
		count(w.owners, s.list.owner, bytes)
	}
}

// count adds to a key's number, and forgets a key whose number is 0.
func count[K comparable](counts map[K]int, key K, n int) {
	if counts[key] += n; counts[key] == 0 {
		delete(counts, key)
	}
}

// follow says that a stream with a backlog has begun to follow.
func (w *writer) follow(s *stream) { w.share(s, s.backlog.size()) }

// unfollow says that a stream's follow is about to end. Its backlog stays.
func (w *writer) unfollow(s *stream) {
	w.catchUp(s)
	if s.backlog != nil {
		w.share(s, -s.backlog.size())
	}
}

// send writes bytes, or what of them fits; the rest becomes the backlog. To a backlog they are
// added.
func (w *writer) send(s *stream, bytes []byte) (Reason, bool) {
	if len(bytes) == 0 {
		return 0, true
	}
	if s.backlog != nil {
		before := cap(s.backlog.bytes)
		s.backlog.add(bytes)
		w.pend(s, cap(s.backlog.bytes)-before)
		return 0, true
	}
	n, err := w.write(s, bytes)
	if err != nil {
		return reasonOf(err), false
	}
	if n == len(bytes) {
		return 0, true
	}
	rest, held := bytes[n:], s.conn.Held()
	if len(rest)+held > w.pendingRoom(s) {
		return Overload, false
	}
	s.backlog = &backlog{bytes: append([]byte(nil), rest...), held: held}
	s.wrote = w.clock.now // its time runs from here
	w.pend(s, s.backlog.size())
	w.stats.BlockedNow++
	return 0, true
}

// flush writes from the backlog. A stream whose backlog is empty no longer lags.
func (w *writer) flush(s *stream) (Reason, bool) {
	if s.backlog == nil {
		return 0, true
	}
	n, err := w.write(s, s.backlog.bytes[s.backlog.sent:])
	if err != nil {
		return reasonOf(err), false
	}
	if s.backlog.sent += n; s.backlog.left() == 0 {
		w.drop(s)
		w.catchUp(s)
		return 0, true
	}
	held := s.conn.Held()
	w.pend(s, held-s.backlog.held)
	s.backlog.held = held
	return 0, true
}

// write is one write to the connection.
func (w *writer) write(s *stream, bytes []byte) (n int, err error) {
	n, err = s.conn.Write(bytes)
	w.stats.Writes++
	w.stats.Bytes += uint64(n)
	if err != nil {
		return n, err
	}
	if n > 0 {
		s.wrote = w.clock.now
	}
	if n < len(bytes) {
		w.stats.Blocked++
	}
	return n, nil
}

// drop forgets a stream's backlog.
func (w *writer) drop(s *stream) {
	if s.backlog != nil {
		w.pend(s, -s.backlog.size())
		w.stats.BlockedNow--
		s.backlog = nil
	}
}

// lag marks a stream that has no room for what it is owed. It goes on when its backlog is empty.
func (w *writer) lag(s *stream) {
	s.lagging = true
	w.stats.Lagging++
}

// catchUp ends a stream's lag.
func (w *writer) catchUp(s *stream) {
	if s.lagging {
		s.lagging = false
		w.stats.Lagging--
	}
}

// reasonOf tells a client that is gone from a failure of ours.
func reasonOf(err error) Reason {
	for _, gone := range []error{
		syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, errClosed,
	} {
		if errors.Is(err, gone) {
			return ClientGone
		}
	}
	return Failed
}
