package broadcast

// The way of events from the queue to the streams: frames per user, then laps over the users'
// streams.

// takeEvents turns events into frames of the users that have streams, and wakes those users.
func (w *worker) takeEvents() {
	q := &w.mail.queue
	start := uint32(0)
	var last *user
	lists := false
	for i := range q.events {
		e := &q.events[i]
		if u := w.users.find(e.user); u != nil {
			u.mustBeOf(e.source)
			if w.fans.add(u, e.lsn, q.bytes[start:e.end]) {
				w.laps.wake(u)
			}
			last = u
		}
		if w.lists.open > 0 && w.noteEvent(e, q.bytes[start:e.end]) {
			lists = true
		}
		start = e.end
	}
	w.delivery.begin(last, q.since)
	if lists {
		w.delivery.beginLists(q.since)
	}
	if q.full {
		w.warnOverflow()
	}
	if q.lost.len() > 0 {
		w.makeUp()
	}
}

// makeUp lets the streams of the sources that lost events get the newest states.
func (w *worker) makeUp() {
	for u := range w.users.index.all {
		if w.mail.queue.lost.has(u.source) {
			w.fans.conflate(u, w.mail.through[u.source])
			w.laps.wake(u)
		}
	}
	if w.lists.open > 0 {
		w.makeUpLists()
	}
}

// runLaps visits streams of the queued users: first those that were woken, so that an event waits
// for no crowd, then the crowds, in turn. These go on until something else is to be done, but have
// their share of the visits in any case.
func (w *worker) runLaps() {
	spent := 0
	for len(w.laps.woken) > 0 && spent < visitsPerTurn {
		spent += w.runLap(w.laps.nextWoken(), w.visits)
	}
	share := max(1, spent/(crowdShare-1))
	budget := visitsPerTurn
	for len(w.laps.crowds) > 0 && budget > 0 && (share > 0 || !w.pressed()) {
		visits := w.runLap(w.laps.nextCrowd(), share)
		budget -= visits
		share -= visits
	}
}

// pressed reports whether there is something to do that should not wait for a crowd.
func (w *worker) pressed() bool { return w.in.mail.Load() || w.leftOver() }

// runLap takes a user's lap on, see lap. It returns the cost in visits, which is never 0.
func (w *worker) runLap(u *user, share int) int {
	visited, done := w.lap(u, share)
	if !done {
		w.laps.putBack(u)
	}
	return visited + 1
}

// lap takes the user's lap on by a number of streams, and by no more than its share when something
// else is to be done. At its end every stream has been visited since last was lap, so the frames
// through there are no longer needed: a stream that has not taken them lags. Frames that came
// meanwhile begin another lap, in which only the streams that lack them are written to.
func (w *worker) lap(u *user, share int) (visited int, done bool) {
	if u.cursor == 0 {
		u.cursor, u.lap = u.first, u.last
	}
	for u.cursor != 0 {
		if visited == w.visits || visited >= share && w.pressed() {
			return visited, false
		}
		s := w.slots.following(u.cursor)
		u.cursor = s.follow.next // first: the visit may free s
		w.visit(s)
		visited++
	}
	w.fans.lapped(u)
	w.delivery.lapped(u)
	// lap and not base: conflation moves base in the middle of a lap.
	return visited, u.count == 0 || u.lap >= u.last
}

// visit gives a stream the frames that it is owed: writes them, or adds them to the backlog. When
// they are gone, it begins a snapshot, and one that is on its way comes first (B8).
func (w *worker) visit(s *stream) {
	f := &s.follow
	for f.user != nil && f.through < f.user.last && !s.lagging && s.taking == nil {
		limit := w.writer.room(s)
		if s.backlog != nil && (f.through < f.user.base || limit <= 0) {
			w.writer.lag(s)
			return
		}
		if f.through < f.user.base {
			w.conflate(s)
			continue
		}
		p := w.parcels.owed(f.user, f.through, limit)
		bytes := p.form(s.chunked)
		if s.backlog != nil && len(bytes) > limit {
			w.writer.lag(s)
			return
		}
		w.stats.Frames += uint64(p.frames)
		f.through = p.through
		w.send(s, bytes)
	}
}
