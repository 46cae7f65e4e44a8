package broadcast

import (
	"errors"
	"strconv"
	"syscall"
)

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

// drop forgets a stream's backlog.
func (w *worker) drop(s *stream) {
	if s.backlog != nil {
		w.stats.PendingBytes -= cap(s.backlog.bytes)
		w.stats.BlockedNow--
		s.backlog = nil
	}
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

// endText is the last thing that a stream is sent.
func (w *worker) endText(s *stream, reason Reason) []byte {
	w.out = w.out[:0]
	if reason == Drained {
		low, high := w.b.options.RetryMin.Milliseconds(), w.b.options.RetryMax.Milliseconds()
		retry := low + w.rand.Int64N(high-low+1)
		w.out = appendChunk(w.out, "retry: "+strconv.FormatInt(retry, 10)+"\n\n", s.chunked)
	}
	if s.chunked {
		w.out = append(w.out, lastChunk...)
	}
	return w.out
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

// reasonOf tells a client that is gone from a failure of ours.
func reasonOf(err error) Reason {
	for _, gone := range []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, errClosed} {
		if errors.Is(err, gone) {
			return ClientGone
		}
	}
	return Failed
}
