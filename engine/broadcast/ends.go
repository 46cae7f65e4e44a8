package broadcast

// The ends of streams: those that are due, and what the worker does to end one (B5).

// checkDue looks at the streams whose items in the ring have come up.
func (w *worker) checkDue() {
	for i := range duePerTurn {
		if i >= endsPerTurn && w.budget <= 0 {
			return
		}
		slot, tick, ok := w.deadlines.next()
		if !ok {
			return
		}
		s := w.slots.at(slot)
		if s.state == free || s.filed != tick {
			continue
		}
		s.filed = 0
		if w.check(s); s.state != free {
			w.deadlines.file(s)
		}
	}
}

// check does what a stream is due for.
func (w *worker) check(s *stream) {
	d := &w.deadlines
	switch {
	case s.state == shut:
		if d.ended(s) {
			w.free(s, s.reason)
		}
	case s.state == open && d.ended(s):
		reason := TokenExpired
		if s.drains {
			reason = Drained
		}
		w.end(s, reason)
	case s.backlog != nil:
		if d.timedOut(s) {
			w.timeout(s)
		}
	case s.state == open && d.silent(s):
		w.out = appendChunk(w.out[:0], keepaliveText, s.chunked)
		w.send(s, w.out)
	}
}

// timeout closes a stream that has taken nothing, unless it takes something now: after a suspension
// of this process, the timeout does not show that the client was slow.
func (w *worker) timeout(s *stream) {
	before := s.wrote
	w.resume(s)
	if s.state != free && s.backlog != nil && s.wrote == before {
		w.free(s, Slow)
	}
}

// startDrain gives every stream its turn in draining.
func (w *worker) startDrain() {
	if !w.mail.draining || !w.drain.begin(w.deadlines.after(w.mail.drain)) {
		return
	}
	for s := range w.slots.all {
		switch s.state {
		case open:
			w.drain.setEnd(s, w.deadlines.now)
			w.deadlines.file(s)
		case shut:
			s.ends = min(s.ends, w.drain.end+ticksOf(drainLinger))
			w.deadlines.file(s)
		}
	}
}

// end sends a stream its end. No event follows. The connection is closed once the client has read
// the end, or after the linger time.
func (w *worker) end(s *stream, reason Reason) {
	w.unfollow(s)
	s.state, s.reason, s.ends = ending, reason, 0
	w.out = w.drain.appendEnd(w.out[:0], reason, w.deadlines.now, s.chunked)
	w.send(s, w.out)
	if s.state == ending && s.backlog == nil {
		w.shut(s)
	}
}

// shut closes our side and leaves the client some time to close its own: closing at once could
// reset the connection before the client has read the end.
func (w *worker) shut(s *stream) {
	if err := s.conn.CloseWrite(); err != nil {
		w.free(s, reasonOf(err))
		return
	}
	linger := lingerTime
	if w.drain.began {
		linger = drainLinger
	}
	s.state, s.ends = shut, w.deadlines.after(linger)
	w.deadlines.file(s)
}

// free closes a stream's connection and gives its slot back. A stream that was ending keeps its
// first reason.
func (w *worker) free(s *stream, reason Reason) {
	if s.state == ending || s.state == shut {
		reason = s.reason
	}
	w.unfollow(s)
	w.writer.drop(s)
	if err := s.conn.Close(); err != nil {
		w.log.Debug("broadcast: close a stream's connection", "err", err)
	}
	w.stats.Closed[reason]++
	done := w.guests.leave(s.slot)
	w.in.release(s)
	w.count.leave()
	if done != nil {
		done()
	}
}

// unfollow ends a stream's follow, if it has not ended: the stream gets no more events.
func (w *worker) unfollow(s *stream) {
	if w.dropHeld(s) {
		return
	}
	if s.list != nil {
		w.closeList(s)
		return
	}
	u := s.follow.user
	if u == nil {
		return
	}
	w.writer.unfollow(s)
	w.snapshots.leave(s)
	w.letGo(s)
	w.in.unfollow(s)
	if u.count == 0 {
		w.fans.release(u, u.last)
		w.delivery.forget(u)
	}
}

// endAll is the last turn: one attempt to tell each stream, and everything is given back.
func (w *worker) endAll() {
	for s := range w.slots.all {
		if s.state == open && w.flush(s) && s.backlog == nil {
			w.end(s, Drained)
		}
		if s.state != free {
			// Closing with input unread would reset the connection, and the client would miss the
			// end.
			s.conn.Discard(w.input)
			w.free(s, Drained)
		}
	}
	w.mail.queue.run = run{}
	w.in.finish(w.figures())
}
