package broadcast

import (
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// retries say when clients come back: at random, so that they do not come together, and never while
// the server that sent them away is still there, or its successor is still starting. Any goroutine.
type retries struct {
	low, high time.Duration // of the random part

	// restart is how long a restart takes, in nanoseconds.
	restart atomic.Int64

	// drained is the instant, on the clock of Tick, at which the last stream is told to go; 0: the
	// server is not draining. Drain stores it before streams are refused.
	drained atomic.Int64
}

// afterDrain is how long what is behind a drain takes: the clients told last hang up, the process
// ends, and the next one starts.
func (r *retries) afterDrain() time.Duration {
	return drainLinger + time.Duration(r.restart.Load())
}

// AppendEnd appends the whole rest of a stream's body: when to come back, and the end.
func AppendEnd(dst []byte, retry time.Duration, chunked bool) []byte {
	ms := (retry + time.Millisecond - 1) / time.Millisecond
	return appendLast(appendChunk(dst, "retry: "+strconv.FormatInt(int64(ms), 10)+"\n\n", chunked),
		chunked)
}

func appendLast(dst []byte, chunked bool) []byte {
	if !chunked {
		return dst // the body ends with the connection
	}
	return append(dst, lastChunk...)
}

// drain spreads the ends of streams, and the reconnects after them. Single owner: the worker.
type drain struct {
	rand    *rand.Rand
	retries *retries
	began   bool
	end     uint32 // tick by which the last stream is told to go
}

// begin starts draining, unless it has begun. True: it has not.
func (d *drain) begin(end uint32) bool {
	if d.began {
		return false
	}
	d.began, d.end = true, end
	return true
}

// setEnd gives a stream a random turn in what is left of the time for draining, unless it ends
// before.
func (d *drain) setEnd(s *stream, now uint32) { d.setEndBy(s, now, d.end) }

// setEndBy gives a stream a random turn until a tick, unless it ends before.
func (d *drain) setEndBy(s *stream, now, by uint32) {
	ends := now
	if by > now {
		ends += d.rand.Uint32N(by - now + 1)
	}
	if s.ends == 0 || ends < s.ends {
		s.ends, s.drains = ends, true
	}
}

// appendEnd appends the last thing that a stream is sent. A drained stream is told when to
// reconnect: not before the drain is over.
func (d *drain) appendEnd(dst []byte, reason Reason, now uint32, chunked bool) []byte {
	if reason != Drained {
		return appendLast(dst, chunked)
	}
	spread := d.retries.low +
		time.Duration(d.rand.Int64N(int64(d.retries.high-d.retries.low)+1))
	left := time.Duration(0)
	if d.end > now {
		left = time.Duration(d.end-now) * tickTime
	}
	return AppendEnd(dst, left+d.retries.afterDrain()+spread, chunked)
}
