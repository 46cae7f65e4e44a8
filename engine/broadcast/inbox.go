package broadcast

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// inbox is the one way into a worker. Any goroutine may call it, except for the methods that say
// that the worker calls them. The mutex is held for copying only, never during a write to a
// connection.
type inbox struct {
	mu   sync.Mutex
	cond sync.Cond // the worker waits here for mail

	// mail says that there is something to wake up for. post sets it and take clears it, under mu.
	// The worker also loads it without mu, to postpone what can wait; mail that it misses then it
	// sees at the next load.
	mail atomic.Bool

	// All below is guarded by mu.

	follows  follows        // whom the streams follow, those in subs and late, too
	marks    [2]listMarks   // the same of list streams, by view
	begun    sourceSet      // sources with a batch that was begun and not flushed
	late     []Subscription // that came meanwhile, of these sources (B9)
	slots    *slots         // of them, what Ready touches
	queue    queue          // events at or below through, of each source
	through  []uint64       // by source: the last Flush
	subs     []Subscription
	queries  []func(*worker)
	nowNanos int64
	drain    time.Duration // how long draining takes, when draining
	draining bool          // no more subscriptions
	closed   bool          // neither subscriptions nor queries nor events
	streams  int           // subscriptions taken and not freed yet
	lists    int           // of these, list streams that have not ended
	users    *users        // of them, what is under mu
	stats    Stats         // as of the worker's last turn
	dropped  uint64        // events dropped by full queues and Lose
	overflow uint64        // full queues
}

func (in *inbox) init(o *Options, slots *slots, users *users) {
	in.cond.L = &in.mu
	in.slots, in.users = slots, users
	in.through = make([]uint64, o.Sources)
	in.queue.lost = newSourceSet(o.Sources)
	in.begun = newSourceSet(o.Sources)
}

// post runs put under the lock and wakes the worker when put returns true.
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

// begin says that a source's commit loop publishes a batch, and has subscriptions of the source's
// users wait for its end (B9). It reports whether there are streams that may get something of it,
// and list streams among them.
func (in *inbox) begin(source Source) (wanted, lists bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.begun.add(source)
	return !in.closed && in.streams > 0, in.lists > 0
}

// admitLateLocked lets the subscriptions go on that waited for the source's Flush. It reports
// whether there are any.
func (in *inbox) admitLateLocked(source Source) (any bool) {
	in.begun.remove(source)
	if len(in.late) == 0 {
		return false
	}
	before := len(in.subs)
	in.late = slices.DeleteFunc(in.late, func(s Subscription) bool {
		if s.Source == source {
			in.subs = append(in.subs, s)
		}
		return s.Source == source
	})
	return len(in.subs) > before
}

// flush takes the events of a source's batch and its through in one step (B1). A worker without
// events need not wake up: it reads through before it does anything else that depends on it. A
// worker without streams needs no events: a subscription that comes later is answered at through or
// above.
func (in *inbox) flush(source Source, s *stage, through uint64, receivedNanos int64, limit int) {
	in.post(func() bool {
		in.through[source] = max(in.through[source], through)
		admitted := in.admitLateLocked(source)
		if in.closed || in.streams == 0 || len(s.events) == 0 && !s.lost {
			s.reset()
			return admitted
		}
		before := in.queue.full
		in.queue.take(source, s, receivedNanos, limit)
		if in.queue.full && !before {
			in.overflow++
		}
		return true
	})
}

// tick tells the time. A worker without streams need not wake up for it: it reads the time before
// it does anything that depends on it.
func (in *inbox) tick(nowNanos int64) {
	in.post(func() bool {
		in.nowNanos = max(in.nowNanos, nowNanos)
		return in.streams > 0
	})
}

// now is the latest instant that Tick told.
func (in *inbox) now() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.nowNanos
}

func (in *inbox) subscribe(s Subscription) (err error) {
	in.post(func() bool {
		if in.closed || in.draining {
			err = ErrDraining
		} else if s.List == nil && !in.users.joinLocked(s.User) {
			err = ErrTooManyOfUser
		} else {
			return in.joinLocked(s)
		}
		return false
	})
	return err
}

// joinLocked takes a subscription, and reports whether the worker can open it now.
func (in *inbox) joinLocked(s Subscription) (now bool) {
	if s.List != nil {
		in.lists++
		for _, hash := range s.hashes {
			in.marks[s.List.View].add(hash)
		}
		s.hashes = nil
	} else {
		in.follows.add(hashOf(s.User))
	}
	in.streams++
	if in.begun.has(s.Source) {
		in.late = append(in.late, s)
		return false
	}
	in.subs = append(in.subs, s)
	return true
}

// unfollow ends a stream's follow: it gets no more events, which makes room for another one of the
// user. The worker calls it.
func (in *inbox) unfollow(st *stream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.follows.remove(hashOf(st.follow.user.id))
	in.users.unlinkLocked(st)
}

// forgo ends what joinLocked began for a stream of one user that never followed it. The worker
// calls it.
func (in *inbox) forgo(user uuid.UUID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.follows.remove(hashOf(user))
	in.users.openedLocked(user)
}

// unfollowList is unfollow for a stream of many users, and makes no room.
// It is given the hashes of the users.
func (in *inbox) unfollowList(view View, hashes []uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.lists--
	for _, hash := range hashes {
		in.marks[view].remove(hash)
	}
}

// release gives a stream's slot back. The worker calls it.
func (in *inbox) release(s *stream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.slots.releaseLocked(s)
	in.streams--
}

// notify notes what a stream is ready for.
func (in *inbox) notify(id StreamID, r Readiness) {
	in.post(func() bool { return !in.closed && in.slots.noteLocked(id, r) })
}

// ask has the worker call a function. False: it never will.
func (in *inbox) ask(query func(*worker)) bool {
	return in.post(func() bool {
		if in.closed {
			return false
		}
		in.queries = append(in.queries, query)
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

// take moves everything to the worker's mail at once. It waits until there is something, unless the
// worker is busy. The worker calls it; figures are the worker's as of its last turn.
func (in *inbox) take(m *mail, figures Stats, busy bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stats = figures
	for !in.mail.Load() && !busy && len(in.subs) == 0 && len(in.slots.listed) == 0 {
		in.cond.Wait()
	}
	in.mail.Store(false)
	m.queue.reset()
	in.dropped += in.queue.dropped
	m.queue, in.queue = in.queue, m.queue
	copy(m.through, in.through)
	m.queries, in.queries = in.queries, m.queries[:0]
	m.nowNanos = in.nowNanos
	m.draining, m.drain, m.closed = in.draining, in.drain, in.closed
	if m.closed { // no Flush need come
		in.subs, in.late = append(in.subs, in.late...), nil
	}
	if len(m.subs) == 0 {
		m.subs, in.subs = in.subs, nil
	} else if m.closed {
		m.subs, in.subs = append(m.subs, in.subs...), nil
	}
	if len(m.ready) == 0 { // else a stream could be listed again and again
		m.ready = in.slots.reportsLocked(m.ready)
	}
	m.peak = max(m.peak, m.queue.size())
}

// finish is the worker's last call.
func (in *inbox) finish(figures Stats) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.queue.run = run{}
	in.stats = figures
}

// figures are the worker's, with those of the inbox.
func (in *inbox) figures() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.stats
	s.Streams = in.streams
	s.QueueBytes += in.queue.size()
	s.Overflows, s.DroppedEvents = in.overflow, in.dropped+in.queue.dropped
	return s
}
