package broadcast

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

type query struct {
	user  uuid.UUID
	reply chan<- int // has room for the answer
}

// report is a stream's readiness on its way to the worker.
type report struct {
	slot, reuse uint32
	ready       Readiness
}

// inbox is the one way into a worker. The mutex is held for copying only, never during a write to a connection.
type inbox struct {
	mu   sync.Mutex
	cond sync.Cond // the worker waits here for mail

	// mail: there is something that the worker should wake up for. Changed under mu; the worker also looks at it without, to
	// see whether it should put off what can wait. What it then misses it sees at its next look.
	mail atomic.Bool

	// All below is guarded by mu.

	batch    batch    // events at or below through
	through  []uint64 // by source: the last Flush
	subs     []Subscription
	ready    []uint32 // slots with something in stream.ready, each listed once at most
	queries  []query
	nowNanos int64
	drain    time.Duration // how long draining takes, when draining
	draining bool          // no more subscriptions
	closed   bool          // neither subscriptions nor queries nor events
	streams  int           // subscriptions taken and not freed yet
	perUser  followers     // the same, those that are ending left out; nil: nobody asks
	slots    []*slotChunk  // the worker alone changes the directory; Ready reads it
	stats    Stats         // as of the worker's last turn
	dropped  uint64        // events dropped by full queues and Lose
	overflow uint64        // full queues
}

// post runs put under the lock and wakes the worker when it says so.
func (in *inbox) post(put func() bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !put() {
		return false
	}
	in.mail.Store(true)
	in.cond.Signal()
	return true
}

// flush takes the events of a source's batch and its through in one step (B1). A worker without events
// need not wake up: it reads through before it does anything else that depends on it. A worker without
// streams needs no events: a subscription that comes later is answered at through or above.
func (in *inbox) flush(source Source, s *stage, through uint64, receivedNanos int64, limit int) {
	if n := len(s.events); n > 0 && s.events[n-1].lsn > through {
		panic("bug: an event was published above the LSN of its Flush") // I3 would not hold
	}
	in.post(func() bool {
		in.through[source] = max(in.through[source], through)
		if in.closed || in.streams == 0 {
			s.reset()
			return false
		}
		if len(s.events) == 0 && !s.lost {
			return false
		}
		before := in.batch.full
		in.batch.take(source, s, receivedNanos, limit)
		if in.batch.full && !before {
			in.overflow++
		}
		return true
	})
}

func (in *inbox) tick(nowNanos int64) {
	in.post(func() bool {
		in.nowNanos = max(in.nowNanos, nowNanos)
		return true
	})
}

func (in *inbox) subscribe(s Subscription, perUser int) (err error) {
	in.post(func() bool {
		if in.closed || in.draining {
			err = ErrDraining
		} else if !in.perUser.join(s.User, perUser) {
			err = ErrTooManyOfUser
		} else {
			in.subs = append(in.subs, s)
			in.streams++
		}
		return err == nil
	})
	return err
}

// followers counts the streams of each user: those that were let in, opened by the worker or not, and are not ending. A
// nil map counts nobody and lets everybody in.
type followers map[uuid.UUID]uint32

// join counts one more, unless the user has as many as may be.
func (f followers) join(user uuid.UUID, limit int) bool {
	if f == nil {
		return true
	}
	if int64(f[user]) >= int64(limit) {
		return false
	}
	f[user]++
	return true
}

func (f followers) leave(user uuid.UUID) {
	if n := f[user]; n > 1 {
		f[user] = n - 1
	} else {
		delete(f, user) // of a nil map: nothing
	}
}

// notify notes what a stream is ready for. A stream that waits in the list already only gains bits there, so the list
// is never longer than there are streams.
func (in *inbox) notify(id StreamID, r Readiness) {
	in.post(func() bool {
		slot := id.slot()
		if in.closed || r == 0 || int(slot/chunkSlots) >= len(in.slots) {
			return false
		}
		s := &in.slots[slot/chunkSlots][slot%chunkSlots]
		if s.reuse != id.reuse() {
			return false
		}
		if !s.listed {
			s.listed = true
			in.ready = append(in.ready, slot)
		}
		s.ready |= r
		return true
	})
}

func (in *inbox) ask(q query) bool {
	return in.post(func() bool {
		if in.closed {
			return false
		}
		in.queries = append(in.queries, q)
		return true
	})
}

func (in *inbox) startDrain(over time.Duration) {
	in.post(func() bool {
		in.draining, in.drain = true, over
		return true
	})
}

func (in *inbox) close() {
	in.post(func() bool {
		in.closed = true
		return true
	})
}

func (in *inbox) figures() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.stats
	s.Streams = in.streams
	s.QueueBytes += in.batch.size()
	s.Overflows, s.DroppedEvents = in.overflow, in.dropped+in.batch.dropped
	return s
}
