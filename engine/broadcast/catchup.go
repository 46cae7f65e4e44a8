package broadcast

import "github.com/google/uuid"

// catchUp is a list stream on its way through the newest states of its users: all of them at its
// beginning, or what changed since the client was there, or since events were lost. It goes from
// user to user, a piece at a time, as snapshots do, and keeps no text.
type catchUp struct {
	after   uint64   // the stream has everything of the first known users at or below it
	known   int      // of the stream's follows; the others have nothing
	through uint64   // what the stream has when all is given
	until   uint64   // LSNs that were left out are at or below it: the end comes behind them
	at      int      // follow whose turn it is
	device  int      // devices of it that were given
	devices []uint32 // names of its devices, when it is in the middle of them
	begun   bool     // through is set
	given   bool     // the last piece was given
	stale   bool     // a device was forgotten that the client may believe to be online
	first   bool     // the stream's first: synced is owed at the end
	queued  bool     // it is in lists.waiting
}

// catchUpAgain begins another catch-up: events that the stream was owed are gone.
func (w *worker) catchUpAgain(s *stream) {
	l := s.list
	w.stats.Conflated++
	if l.catchUp == nil {
		l.catchUp = &catchUp{}
		w.lists.taking++
	}
	*l.catchUp = catchUp{
		after: l.through, known: l.follows.users, until: l.catchUp.until, first: l.catchUp.first,
		queued: l.catchUp.queued,
	}
	w.waitList(s)
}

// waitList queues a stream that can take a piece of its catch-up.
func (w *worker) waitList(s *stream) {
	if c := s.list.catchUp; c != nil && !c.given && !c.queued {
		c.queued = true
		w.lists.waiting = append(w.lists.waiting, streamAt{s.slot, s.reuse})
	}
}

// endCatchUp forgets a stream's catch-up.
func (w *worker) endCatchUp(l *listStream) {
	l.catchUp = nil
	w.lists.taking--
}

// runCatchUp gives the stream whose turn it is the next piece.
func (w *worker) runCatchUp() {
	at := popAt(&w.lists.waiting)
	s := w.slots.at(at.slot)
	if s.reuse != at.reuse || s.list == nil || s.list.catchUp == nil {
		return
	}
	c := s.list.catchUp
	c.queued = false
	if s.backlog != nil || c.given { // when the backlog is gone, it waits again
		return
	}
	w.advanceList(s, nil)
}

// advanceList gives a list stream, which has no backlog, the next piece of its catch-up, behind a
// head. The stream may have ended afterwards.
func (w *worker) advanceList(s *stream, head []byte) {
	l := s.list
	c := l.catchUp
	if !c.begun {
		// All that the worker has taken is in the states. What comes from here on is in debts.
		c.begun, c.through = true, w.mail.through[l.source]
		l.taken = c.through
		c.until = max(c.until, c.through)
		w.lists.debts.clear(&l.debts)
		l.lost = false
	}
	w.makePiece(s)
	bytes := w.lists.piece.form(s.chunked)
	w.budget -= len(bytes)
	if c.at == l.follows.users {
		c.given = true
		l.through = max(l.through, c.through)
	}
	if len(head) > 0 {
		w.out = append(append(w.out[:0], head...), bytes...)
		bytes = w.out
	}
	w.send(s, bytes)
	switch {
	case s.state != open:
	case c.stale:
		w.end(s, Outdated) // a cursor from before is not honoured: its client comes back for all
	case c.given:
		w.visitList(s) // what came meanwhile, and the end
	case s.backlog == nil:
		w.waitList(s)
	}
}

// makePiece makes the next piece of a stream's catch-up: as much as costs lists.most.
func (w *worker) makePiece(s *stream) {
	l, ls := s.list, &w.lists
	c := l.catchUp
	text := ls.piece.begin()
	before := w.lists.most
	left := before
	ls.id = w.appendCatchUpID(ls.id[:0], l)
	ahead := c.at
	for c.at < l.follows.users && left > 0 {
		size := len(text)
		if c.at >= ahead && c.device == 0 && l.view == ViewDevices {
			ahead = w.lookAhead(l)
			left -= lookCost * (ahead - c.at)
		}
		if l.view == ViewUsers {
			text = w.appendAggregate(text, s)
			left -= lookCost
			c.at++
		} else {
			text, left = w.appendDevices(text, s, left)
		}
		left -= len(text) - size
	}
	w.budget -= max(0, before-left-(len(text)-chunkRoom))
	ls.piece.seal(text, 0, c.through)
}

// aheadUsers is how many users a catch-up looks up together.
const aheadUsers = 16

// lookAhead prepares the look at the next users of a stream's catch-up, and returns the follow
// behind them.
func (w *worker) lookAhead(l *listStream) int {
	var users [aheadUsers]uuid.UUID
	at := l.catchUp.at
	n := min(aheadUsers, l.follows.users-at)
	for i := range users[:n] {
		users[i] = w.lists.follows.userOf(l.follows.at(at + i))
	}
	w.lists.codec.Ahead(l.source, users[:n])
	return at + n
}

// endUser goes on to the next user, whose devices are given. One of whom a device was forgotten
// above what the client has ends the stream: there is nothing that says what became of it.
func (w *worker) endUser(l *listStream) {
	c := l.catchUp
	c.stale = c.stale || w.forgotten(l, w.lists.follows.userOf(l.follows.at(c.at)), c.owedAfter())
	c.at, c.device, c.devices = c.at+1, 0, nil
}

// forgotten reports whether a device of a user was forgotten above what a client has, if it has
// anything. It is asked after the user was looked at, since it is known before the device is gone.
func (w *worker) forgotten(l *listStream, user uuid.UUID, after uint64) bool {
	return after > 0 && w.lists.codec.Forgotten(l.source, user) > after
}

// owedAfter is the LSN above which the states of the user whose turn it is are owed.
func (c *catchUp) owedAfter() uint64 {
	if c.at < c.known {
		return c.after
	}
	return 0
}

// appendCatchUpID appends the id line of an event of a catch-up: until the last piece the client
// has everything that it had before, and in part what the catch-up has. Without the second, a
// client that comes back to another branch of the history would keep states of this one.
func (w *worker) appendCatchUpID(dst []byte, l *listStream) []byte {
	c := l.catchUp
	return w.appendID(dst, l, Position{Through: c.after, Newest: c.through, Synced: !c.first})
}

// appendAggregate appends the aggregate of the user whose turn it is, if it is owed: also after a
// device was forgotten, which may have been the last.
func (w *worker) appendAggregate(text []byte, s *stream) []byte {
	l, codec := s.list, w.lists.codec
	c := l.catchUp
	follow := l.follows.at(c.at)
	user, after := w.lists.follows.userOf(follow), c.owedAfter()
	begin := len(text)
	text = append(append(text, w.lists.id...), userLine...)
	before := len(text)
	text, a := codec.AppendUser(text, l.source, user, after, c.through, l.linger)
	if len(text) == before && w.forgotten(l, user, after) {
		text, a = codec.AppendUser(text, l.source, user, 0, c.through, l.linger)
	}
	if a.LSN > c.through {
		c.until = max(c.until, a.LSN)
	}
	if len(text) == before {
		return text[:begin]
	}
	if l.linger > 0 {
		w.setLinger(s, follow, a.Lingers)
	}
	return text
}

// appendDevices appends the states of the user whose turn it is, as many as may be spent on, and
// goes on to the next when all are given.
func (w *worker) appendDevices(text []byte, s *stream, left int) ([]byte, int) {
	l, ls := s.list, &w.lists
	c := l.catchUp
	user := ls.follows.userOf(l.follows.at(c.at))
	names := c.devices
	if c.device == 0 {
		ls.names = ls.codec.AppendDevices(ls.names[:0], l.source, user)
		names = ls.names
		left -= lookCost
	}
	after, size, first := c.owedAfter(), len(text), c.device
	for c.device < len(names) && (c.device == first || len(text)-size < left) {
		begin := len(text)
		text = append(append(text, ls.id...), presenceLine...)
		before := len(text)
		var newer uint64
		text, newer = ls.codec.AppendState(
			text, l.source, user, names[c.device], after, c.through)
		c.until = max(c.until, newer)
		if len(text) == before {
			text = text[:begin]
		}
		c.device++
		left -= lookCost
	}
	if c.device < len(names) {
		if c.devices == nil {
			c.devices = append(c.devices, names...)
		}
		return text, left
	}
	w.endUser(l)
	return text, left
}
