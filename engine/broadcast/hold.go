package broadcast

import (
	"time"

	"github.com/google/uuid"
)

// Hold keeps a stream from its snapshot until Begin: for a caller who does not have the states yet.
// The stream's head is sent at once, and keepalives as on any other.
type Hold struct {
	// UntilNanos is the instant, on the clock of Tick, at which the stream ends without having
	// begun, and its client is told to come back. Required.
	UntilNanos int64

	// Home is what Subscribe found: Begin asks there.
	home *worker

	// The worker's: the stream that it has opened, or that it need not wait any more.
	id    StreamID
	begun bool
}

// Begin lets a stream begin that Subscribe took with a Hold. Everything that is owed to it has been
// flushed, or is in the table. One that has ended meanwhile stays so. It never blocks. Once for
// each Hold; any goroutine, after Subscribe returned.
func (b *Broadcaster) Begin(h *Hold) {
	if h.home == nil {
		panic("bug: Begin before Subscribe took the stream")
	}
	h.home.in.ask(func(w *worker) { w.beginHeld(h) })
}

// Shed ends every stream that is open now, at a random instant of the time given, and tells its
// client to come back, see Retry. New streams are admitted. Any goroutine.
func (b *Broadcaster) Shed(over time.Duration) {
	for _, w := range b.workers {
		w.in.ask(func(w *worker) { w.shed(over) })
	}
}

// guests are what few streams have beside what all have, by slot. Single owner: the worker.
type guests struct {
	held map[uint32]*Subscription
	done map[uint32]func()
}

func (g *guests) keepDone(slot uint32, done func()) {
	if g.done == nil {
		g.done = make(map[uint32]func())
	}
	g.done[slot] = done
}

// leave takes what is to be called when a stream has ended; nil: nothing.
func (g *guests) leave(slot uint32) func() {
	done := g.done[slot]
	if done != nil {
		delete(g.done, slot)
	}
	return done
}

// heldOf is the subscription of a stream that has not begun; nil: it has.
func (w *worker) heldOf(s *stream) *Subscription {
	if len(w.guests.held) == 0 {
		return nil
	}
	return w.guests.held[s.slot]
}

// hold has a stream that opens wait, and follow nothing yet. What happens to its users is in the
// queue all the same, since Subscribe has counted it.
func (w *worker) hold(s *stream, sub *Subscription) {
	if w.guests.held == nil {
		w.guests.held = make(map[uint32]*Subscription)
	}
	kept := *sub
	kept.Head = nil
	w.guests.held[s.slot] = &kept
	sub.Hold.id = streamID(w.index, s.slot, s.reuse)
	if until := w.deadlines.tickUp(sub.Hold.UntilNanos); s.ends == 0 || until < s.ends {
		s.ends, s.drains = until, true
	}
}

// beginHeld is the worker's part of Begin.
func (w *worker) beginHeld(h *Hold) {
	h.begun = true
	if h.id == 0 { // not opened yet, or never
		return
	}
	s := w.slots.at(h.id.slot())
	sub := w.heldOf(s)
	if sub == nil || sub.Hold != h || s.state != open {
		return
	}
	delete(w.guests.held, s.slot)
	s.ends, s.drains = 0, false
	if sub.ExpiresNanos != 0 {
		s.ends = w.deadlines.tickUp(sub.ExpiresNanos)
	}
	if w.drain.began {
		w.drain.setEnd(s, w.deadlines.now)
	}
	w.deadlines.file(s)
	w.follow(s, sub)
	if s.backlog == nil {
		w.begin(s, sub, nil)
		return
	}
	w.writer.follow(s) // its head is not written yet: resume goes on
	w.stats.Snapshots++
	if sub.List == nil {
		w.snapshots.begin(s)
	}
}

// dropHeld forgets a stream that ends before it has begun. True: it was one.
func (w *worker) dropHeld(s *stream) bool {
	sub := w.heldOf(s)
	if sub == nil {
		return false
	}
	delete(w.guests.held, s.slot)
	if sub.List == nil {
		w.in.forgo(sub.User)
		return true
	}
	hashes := make([]uint64, len(sub.List.Users))
	for i, user := range sub.List.Users {
		hashes[i] = hashOf(user)
	}
	w.in.unfollowList(sub.List.View, hashes)
	w.quota.give(sub.Owner, len(sub.List.Users))
	return true
}

// eachHeld calls yield for each user that a held stream is to follow, until it returns false.
func eachHeld(sub *Subscription, yield func(uuid.UUID) bool) {
	if sub.List == nil {
		yield(sub.User)
		return
	}
	for _, user := range sub.List.Users {
		if !yield(user) {
			return
		}
	}
}

// shed is the worker's part of Shed.
func (w *worker) shed(over time.Duration) {
	end := w.deadlines.after(over)
	for s := range w.slots.all {
		if s.state == open {
			w.drain.setEndBy(s, w.deadlines.now, end)
			w.deadlines.file(s)
		}
	}
}
