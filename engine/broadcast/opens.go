package broadcast

// The beginnings of streams, and their way through snapshots: what the worker does, within what a
// turn may spend.

// openStreams answers subscriptions: between batches, with a snapshot (B1). They have half of what
// a turn may spend, so that the streams before them go on.
func (w *worker) openStreams() {
	for w.mail.closed || w.budget > w.allowed/2 {
		sub, ok := w.mail.opening()
		if !ok {
			return
		}
		w.budget -= openCost
		w.openStream(&sub)
	}
}

func (w *worker) openStream(sub *Subscription) {
	s := w.slots.allocate()
	s.conn, s.chunked, s.state, s.reason = sub.Conn, sub.Chunked, open, 0
	s.wrote = w.deadlines.now
	if sub.ExpiresNanos != 0 {
		s.ends = w.deadlines.tickUp(sub.ExpiresNanos)
	}
	if sub.IDAt > 0 {
		w.ids.put(sub.Head[sub.IDAt:], streamID(w.index, s.slot, s.reuse))
	}
	held := sub.Hold != nil && !sub.Hold.begun
	if held {
		w.hold(s, sub)
	} else {
		w.follow(s, sub)
	}
	if sub.Done != nil {
		w.guests.keepDone(s.slot, sub.Done)
	}
	w.stats.Opened++
	if err := s.conn.Attach(w.notifier, streamID(w.index, s.slot, s.reuse)); err != nil {
		w.log.Error("broadcast: a stream's connection cannot be watched", "err", err)
		w.free(s, Failed)
		return
	}
	if w.drain.began {
		w.drain.setEnd(s, w.deadlines.now)
	}
	w.deadlines.file(s)
	if held {
		w.send(s, sub.Head)
		return
	}
	w.begin(s, sub, sub.Head)
}

// follow has an open stream follow what its subscription says.
func (w *worker) follow(s *stream, sub *Subscription) {
	if sub.List != nil {
		w.openList(s, sub)
	} else {
		w.users.link(s, sub.User, sub.Source, w.mail.through[sub.Source])
	}
}

// begin gives a stream that follows its users the first piece of its snapshot, behind a head.
func (w *worker) begin(s *stream, sub *Subscription, head []byte) {
	w.stats.Snapshots++
	if sub.List != nil {
		w.advanceList(s, head)
		return
	}
	w.snapshots.begin(s)
	w.advance(s, head)
}

// conflate gives a stream whose frames are gone the newest states instead: at once while most of
// what the turn may spend is there, else in its turn.
func (w *worker) conflate(s *stream) {
	w.stats.Conflated++
	w.snapshots.begin(s)
	if w.budget > w.allowed/4 {
		w.advance(s, nil)
	} else {
		w.snapshots.wait(s)
	}
}

// runSnapshots gives streams further pieces, one at a time in turn, within what the worker's turn
// may spend.
func (w *worker) runSnapshots() {
	for w.budget > 0 && len(w.snapshots.waiting)+len(w.lists.waiting) > 0 {
		if len(w.snapshots.waiting) > 0 {
			w.runSnapshot()
		}
		if len(w.lists.waiting) > 0 {
			w.runCatchUp()
		}
	}
}

// runSnapshot gives the stream whose turn it is the next piece.
func (w *worker) runSnapshot() {
	s := w.snapshots.next(&w.slots)
	if s == nil || s.backlog != nil { // when it is gone, the stream waits again
		return
	}
	if w.advance(s, nil); s.state == open && s.taking == nil {
		w.visit(s) // what came meanwhile
		if s.taking == nil {
			w.letGo(s)
		}
	}
}

// letGo ends a stream's hold on its user's frames, if it has one.
func (w *worker) letGo(s *stream) {
	if s.holds {
		s.holds = false
		w.fans.letGo(s.follow.user)
	}
}

// advance gives a stream, which has no backlog, the next piece of what it takes, behind a head. The
// stream may have ended afterwards.
func (w *worker) advance(s *stream, head []byte) {
	t, f := s.taking, &s.follow
	if t.snapshot == nil {
		w.snapshots.join(t, w.snapshots.of(f.user, f.through, w.mail.through[f.user.source]))
	}
	sn := t.snapshot
	p, cost := w.snapshots.piece(sn, t.at)
	bytes := p.form(s.chunked)
	w.budget -= cost + len(bytes)
	first := t.at == 0
	if t.at = p.to; t.at == len(sn.devices) {
		f.through = sn.through
		w.snapshots.leave(s)
	} else if first && !s.holds {
		s.holds = true
		w.fans.hold(f.user, sn.through)
	}
	if len(head) > 0 {
		w.out = append(append(w.out[:0], head...), bytes...)
		bytes = w.out
	}
	if w.send(s, bytes); s.state == open && s.backlog == nil {
		w.snapshots.wait(s)
	}
}
