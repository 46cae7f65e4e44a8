package broadcast

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// drain spreads the ends of streams, and the reconnects after them. Single owner: the worker.
type drain struct {
	rand     *rand.Rand
	retryMin time.Duration
	retryMax time.Duration
	began    bool
	end      uint32 // tick by which the last stream is told to go
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
func (d *drain) setEnd(s *stream, now uint32) {
	ends := now
	if d.end > now {
		ends += d.rand.Uint32N(d.end - now + 1)
	}
	if s.ends == 0 || ends < s.ends {
		s.ends, s.drains = ends, true
	}
}

// appendEnd appends the last thing that a stream is sent. A drained stream is told when to
// reconnect.
func (d *drain) appendEnd(dst []byte, reason Reason, chunked bool) []byte {
	if reason == Drained {
		low, high := d.retryMin.Milliseconds(), d.retryMax.Milliseconds()
		retry := low + d.rand.Int64N(high-low+1)
		dst = appendChunk(dst, "retry: "+strconv.FormatInt(retry, 10)+"\n\n", chunked)
	}
	if chunked {
		dst = append(dst, lastChunk...)
	}
	return dst
}
