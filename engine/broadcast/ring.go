package broadcast

import (
	"math"
	"time"
)

const (
	tickTime    = 250 * time.Millisecond
	ringBuckets = 256 // 64 s
	ringHorizon = 240 // ticks that an item is filed ahead at most
)

func ticksOf(d time.Duration) uint32 {
	ticks := d / tickTime
	if d%tickTime > 0 {
		ticks++
	}
	return uint32(min(ticks, math.MaxInt32))
}

// tickOf is the tick that an instant lies in. The first is 1.
func (w *worker) tickOf(nanos int64) uint32 {
	return uint32(min(max(nanos-w.epoch, 0)/int64(tickTime), math.MaxInt32)) + 1
}

// tickUp is the first tick that begins at an instant or after it.
func (w *worker) tickUp(nanos int64) uint32 {
	if nanos <= w.epoch {
		return 1
	}
	d := nanos - w.epoch
	if d < 0 { // too far for the type
		d = math.MaxInt64
	}
	return ticksOf(time.Duration(d)) + 1
}

// after is the first tick that begins at least d from now.
func (w *worker) after(d time.Duration) uint32 { return w.now + ticksOf(d) }

// due is the tick at which a stream needs looking at, as things stand. It is not moved earlier but by shut and
// drain, which file anew, and by blocking: that is why no item is filed further ahead than WriteTimeout.
func (w *worker) due(s *stream) uint32 {
	timeout := ticksOf(w.b.options.WriteTimeout)
	due := w.now + min(timeout, ringHorizon)
	switch {
	case s.backlog != nil:
		due = min(due, s.wrote+timeout+1) // one more: wrote may lie late in its tick
	case s.state == open && w.b.options.Keepalive > 0:
		due = min(due, s.wrote+ticksOf(w.b.options.Keepalive))
	}
	if s.ends != 0 {
		due = min(due, s.ends)
	}
	return due
}

// file puts a stream into the ring at the tick when it is due. An item that it had there before is void.
func (w *worker) file(s *stream) {
	due := w.ring.clip(w.due(s))
	if s.filed != due {
		s.filed = due
		w.ring.add(s.slot, due)
	}
}

// checkDue looks at the streams whose items have come up.
func (w *worker) checkDue() {
	for range duePerTurn {
		slot, tick, ok := w.ring.next(w.now)
		if !ok {
			return
		}
		s := w.at(slot)
		if s.state == free || s.filed != tick {
			continue
		}
		s.filed = 0
		if w.check(s); s.state != free {
			w.file(s)
		}
	}
}

// check does what a stream is due for.
func (w *worker) check(s *stream) {
	switch {
	case s.state == shut:
		if w.now >= s.ends {
			w.free(s, s.reason)
		}
	case s.state == open && s.ends != 0 && w.now >= s.ends:
		reason := TokenExpired
		if s.drains {
			reason = Drained
		}
		w.end(s, reason)
	case s.backlog != nil:
		if w.now > s.wrote+ticksOf(w.b.options.WriteTimeout) {
			w.timeout(s)
		}
	case s.state == open && w.b.options.Keepalive > 0 && w.now >= s.wrote+ticksOf(w.b.options.Keepalive):
		w.out = appendChunk(w.out[:0], keepaliveText, s.chunked)
		w.send(s, w.out)
	}
}

// timeout closes a stream that takes nothing, unless it does now: we may have been the ones who slept.
func (w *worker) timeout(s *stream) {
	before := s.wrote
	w.resume(s)
	if s.state != free && s.backlog != nil && s.wrote == before {
		w.free(s, Slow)
	}
}

// startDrain gives every stream its turn in draining.
func (w *worker) startDrain() {
	if w.drainFor < 0 || w.draining {
		return
	}
	w.draining, w.drainEnd = true, w.after(w.drainFor)
	for slot := uint32(1); slot < w.slots; slot++ {
		if s := w.at(slot); s.state == open {
			w.drain(s)
			w.file(s)
		}
	}
}

// drain gives a stream a random turn in what is left of the time for draining.
func (w *worker) drain(s *stream) {
	ends := w.now
	if w.drainEnd > w.now {
		ends += w.rand.Uint32N(w.drainEnd - w.now + 1)
	}
	if s.ends == 0 || ends < s.ends {
		s.ends, s.drains = ends, true
	}
}

// ring files streams by the tick at which they are due. Each stream has one valid item; the ring is asked when ticks go
// by and costs nothing in between.
type ring struct {
	done    uint32 // ticks before it are worked off
	last    uint32 // value of done when turned was last asked
	buckets [ringBuckets][]ringItem
	spare   []ringItem
}

type ringItem struct{ slot, tick uint32 }

func (r *ring) start(now uint32) { r.done, r.last = now+1, now+1 }

// clip is the nearest tick to due that can be filed.
func (r *ring) clip(due uint32) uint32 { return min(max(due, r.done), r.done+ringHorizon) }

func (r *ring) add(slot, tick uint32) {
	bucket := &r.buckets[tick%ringBuckets]
	if *bucket == nil {
		*bucket, r.spare = r.spare, nil
	}
	*bucket = append(*bucket, ringItem{slot, tick})
}

// behind: there are ticks to work off.
func (r *ring) behind(now uint32) bool { return r.done <= now }

// next takes an item that is due. An item filed for the bucket while it is worked off comes up in the same tick, or if
// it belongs to a later round stays out of it, since none is filed a whole round ahead.
func (r *ring) next(now uint32) (slot, tick uint32, ok bool) {
	for r.behind(now) {
		bucket := &r.buckets[r.done%ringBuckets]
		if n := len(*bucket); n > 0 {
			item := (*bucket)[n-1]
			*bucket = (*bucket)[:n-1]
			return item.slot, item.tick, true
		}
		if cap(*bucket) > cap(r.spare) {
			r.spare = (*bucket)[:0]
		}
		*bucket = nil
		r.done++
		if now-r.done > ringBuckets && now > r.done { // a long jump: once round is all there is
			r.done = now - ringBuckets
		}
	}
	return 0, 0, false
}

// turned: a tick has gone by since it was last asked.
func (r *ring) turned() bool {
	turned := r.done != r.last
	r.last = r.done
	return turned
}
