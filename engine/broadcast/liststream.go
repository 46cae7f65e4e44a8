package broadcast

import (
	"math"
	"strconv"
	"time"

	"github.com/google/uuid"
)

const (
	presenceLine = "event: presence\n"
	userLine     = "event: user\n"
)

// listStream is what a stream of many users has beside a stream. Single owner: the worker.
type listStream struct {
	ids     IDs
	owner   [16]byte
	follows followRun
	linger  time.Duration
	through uint64    // written or in the backlog is all of its users at or below this LSN (B10)
	taken   uint64    // events at or below it are in debts, or given
	debts   debtQueue // events above through
	catchUp *catchUp  // nil: it is in none
	source  Source
	view    View
	lingers int // of its follows
	late    int // of these, those that are overdue
	queued  listQueue
	crowded bool // it has an item in lists.crowd, which is void unless queued says inCrowd
	lost    bool // events above through are not in debts: a catch-up is due
	resumed bool
}

// listQueue is where a list stream waits to be given what it is owed.
type listQueue uint8

const (
	notQueued listQueue = iota
	inWoken
	inCrowd
)

// lists are a worker's list streams and what they work with. Single owner: the worker.
type lists struct {
	codec   Codec
	most    int // of a piece: pieceCost but in tests
	follows listFollows
	journal journal
	debts   debts
	lingers lingers
	woken   []streamAt // streams that are owed events of users with few follows
	crowd   []streamAt // the same, of users with many
	waiting []streamAt // streams that can take a piece of a catch-up, in turn; each once
	open    int
	taking  int // streams in a catch-up
	piece   parcel
	names   []uint32 // scratch: of a user's devices
	id      []byte   // scratch: the id line of the events of a piece
	hashes  []uint64 // scratch: of a stream's users
}

const (
	maxDebts = 4 << 20
	// linkCost is what it costs to begin or end a follow, in bytes.
	linkCost = 64
)

// streams is how many list streams follow a user.
func (ls *lists) streams(id uuid.UUID) int {
	return ls.follows.streamsOf(ls.follows.find(id), math.MaxInt)
}

// noteEvent adds an event to what the list streams of its user are owed. It reports whether one is.
func (w *worker) noteEvent(e *event, record []byte) (noted bool) {
	ls := &w.lists
	u := ls.follows.find(e.user)
	if u == nil {
		return false
	}
	turn := ls.codec.Turn(record)
	crowd := ls.follows.streamsOf(u, w.visits+1) > w.visits
	number := uint32(0)
	for n, next := u.first, uint32(0); n != 0; n = next {
		f := ls.follows.at(n)
		next = f.next
		s := w.slots.at(ls.follows.streamOf(n))
		l := s.list
		if l.view == ViewUsers && !turn || l.lost || e.lsn <= l.taken { // a source repeats itself
			continue
		}
		l.taken = e.lsn
		if !noted {
			noted, number = true, ls.journal.add(e.lsn, record)
		}
		if l.view == ViewUsers { // made now, in the order of LSNs: last seen only grows
			ls.journal.text(ls.journal.at(number), formUser)
		}
		if !ls.debts.push(&l.debts, number, n) {
			w.lose(l)
		}
		ls.wake(s, crowd)
	}
	return noted
}

// lose says that a stream is not given each event above its through any more.
func (w *worker) lose(l *listStream) {
	l.lost = true
	w.lists.debts.clear(&l.debts)
}

// wake queues a stream that is owed something; for a crowd's event it waits behind those that are
// owed others.
func (ls *lists) wake(s *stream, crowd bool) {
	l := s.list
	switch {
	case !crowd && l.queued != inWoken:
		l.queued = inWoken // an item in crowd is void from now on
		ls.woken = append(ls.woken, streamAt{s.slot, s.reuse})
	case crowd && l.queued == notQueued:
		l.queued = inCrowd
		if !l.crowded {
			l.crowded = true
			ls.crowd = append(ls.crowd, streamAt{s.slot, s.reuse})
		}
	}
}

// makeUpLists lets the list streams of the sources that lost events get the newest states.
func (w *worker) makeUpLists() {
	for s := range w.slots.all {
		if l := s.list; s.state == open && l != nil && w.mail.queue.lost.has(l.source) {
			w.lose(l)
			w.lists.wake(s, true)
		}
	}
}

// trim gives the memory of rare peaks back.
func (ls *lists) trim() {
	ls.journal.trim()
	ls.debts.trim()
	if cap(ls.piece.bytes) > keepBytes {
		ls.piece = parcel{}
	}
	if cap(ls.names) > keepBytes/4 {
		ls.names = nil
	}
}

// runLists gives list streams what they are owed: first those that wait for events of few, as
// runLaps does.
func (w *worker) runLists() {
	ls := &w.lists
	spent := 0
	for len(ls.woken) > 0 && spent < visitsPerTurn {
		w.visitQueued(popAt(&ls.woken), inWoken)
		spent++
	}
	share := max(1, spent/(crowdShare-1))
	for budget := visitsPerTurn; len(ls.crowd) > 0 && budget > 0; budget-- {
		if share <= 0 && w.pressed() {
			break
		}
		if w.visitQueued(popAt(&ls.crowd), inCrowd) {
			share--
		}
	}
	if len(ls.woken)+len(ls.crowd) > 0 {
		return
	}
	w.delivery.visited()
	if ls.taking == 0 && ls.debts.nodes.inUse() == 0 {
		ls.journal.clear()
	}
}

// visitQueued visits a stream that was queued; false: the item is void.
func (w *worker) visitQueued(at streamAt, queue listQueue) bool {
	s := w.slots.at(at.slot)
	if s.reuse != at.reuse || s.list == nil {
		return false
	}
	l := s.list
	if queue == inCrowd {
		l.crowded = false
	}
	if l.queued != queue {
		return false
	}
	l.queued = notQueued
	w.visitList(s)
	return true
}

func popAt(queue *[]streamAt) streamAt {
	at := (*queue)[0]
	if *queue = (*queue)[1:]; len(*queue) == 0 {
		*queue = nil // the array may be that of a rare peak
	}
	return at
}

// visitList gives a list stream the events that it is owed: writes them, or adds them to the
// backlog. When they are gone it begins a catch-up, and one that is on its way comes first.
func (w *worker) visitList(s *stream) {
	l := s.list
	for s.state == open && !s.lagging && (l.catchUp == nil || l.catchUp.given) {
		if !l.debts.empty() && !w.lists.journal.has(w.lists.debts.peek(&l.debts).number) {
			w.lose(l)
		}
		limit := w.writer.room(s)
		if s.backlog != nil && (l.lost || limit <= 0) {
			w.lagList(s)
			return
		}
		if l.lost {
			w.catchUpAgain(s)
			return
		}
		caughtUp := w.gather(s, limit)
		bytes := w.lists.piece.form(s.chunked)
		if s.backlog != nil && len(bytes) > limit {
			w.lagList(s)
			return
		}
		l.through = w.lists.piece.through
		if caughtUp {
			w.endCatchUp(l)
		}
		if len(bytes) == 0 {
			return
		}
		w.stats.Frames += uint64(w.lists.piece.frames)
		w.send(s, bytes)
	}
}

// lagList marks a list stream that has no room for what it is owed. It gets the newest states when
// its backlog is empty.
func (w *worker) lagList(s *stream) {
	w.lose(s.list)
	w.writer.lag(s)
}

// gather makes the text of the events that a stream is owed: as many as fit into limit bytes, but
// at least one, and the end of its first snapshot where it is due. caughtUp says that with them the
// stream's catch-up is over.
func (w *worker) gather(s *stream, limit int) (caughtUp bool) {
	l, ls := s.list, &w.lists
	text := ls.piece.begin()
	through, frames := l.through, 0
	for ; !l.debts.empty(); ls.debts.pop(&l.debts) {
		owed := ls.debts.peek(&l.debts)
		e := ls.journal.at(owed.number)
		form, lingers := l.formOf(&ls.journal, e)
		before := len(text)
		text = w.appendEventID(text, l, e.lsn)
		text = append(text, ls.journal.text(e, form)...)
		if frames > 0 && len(text)-chunkRoom > limit {
			text = text[:before]
			break
		}
		if l.linger > 0 {
			w.setLinger(s, owed.follow, lingers)
		}
		frames++
		through = e.lsn
	}
	if l.debts.empty() {
		through = max(through, w.mail.through[l.source])
		caughtUp = l.catchUp != nil && through >= l.catchUp.until
		if caughtUp && l.catchUp.first {
			text = w.appendSynced(text, l, through)
		}
	}
	ls.piece.seal(text, frames, through)
	return caughtUp
}

// formOf is the form in which a stream gets an event, and for how long the user lingers.
func (l *listStream) formOf(j *journal, e *entry) (form frameForm, lingers time.Duration) {
	if l.view == ViewDevices {
		return formDevice, 0
	}
	if l.linger > 0 {
		if lingers = j.codec.Lingers(j.event(e), l.linger); lingers > 0 {
			return formLingers, lingers
		}
	}
	return formUser, 0
}

// appendEventID appends the id line of an event of the log. Before synced the client does not know
// whether its cursor was honoured, and may have states of another history: with a cursor of this
// one it would keep them.
func (w *worker) appendEventID(dst []byte, l *listStream, lsn uint64) []byte {
	if c := l.catchUp; c != nil && c.first {
		return w.appendID(dst, l, Position{Through: c.after, Newest: lsn})
	}
	return w.appendID(dst, l, Position{Through: lsn, Newest: lsn, Synced: true})
}

// appendID appends the id line of an event. Lingers that are due have not been put off yet when an
// event comes before them in a turn.
func (w *worker) appendID(dst []byte, l *listStream, at Position) []byte {
	at.Overdue = l.late > 0 || l.lingers > 0 && w.lists.lingers.behind(w.deadlines.now)
	at.Nanos = w.mail.nowNanos
	dst = append(dst, "id: "...)
	dst = l.ids.AppendID(dst, at)
	return append(dst, '\n')
}

func (w *worker) appendSynced(dst []byte, l *listStream, through uint64) []byte {
	dst = w.appendID(dst, l, Position{Through: through, Newest: through, Synced: true})
	dst = append(dst, "event: synced\ndata: {\"resumed\":"...)
	dst = strconv.AppendBool(dst, l.resumed)
	dst = append(dst, `,"users":`...)
	dst = strconv.AppendInt(dst, int64(l.follows.users), 10)
	return append(dst, "}\n\n"...)
}

// setLinger says what a stream was told of a user: that it is online for so long although no device
// is, or, if 0, what its devices say.
func (w *worker) setLinger(s *stream, follow uint32, left time.Duration) {
	l, f := s.list, w.lists.follows.at(follow)
	if f.lingers() {
		l.lingers--
	}
	switch {
	case left == 0:
		if f.filed() {
			f.user |= settledBit
		}
		return
	case f.filed():
		f.user &^= settledBit // the item that is there looks again
	default:
		f.user |= lingersBit
		w.lists.lingers.live++
		w.lists.lingers.add(lingerItem{
			due: w.lingerTick(left), follow: follow, slot: s.slot, reuse: s.reuse,
		})
	}
	l.lingers++
}

// putOffTicks is when an item is looked at again whose stream takes nothing else now: each look
// costs, and a stream that does not read stays so for a while.
const putOffTicks = 2

// lingerTick is when a user is looked at whose time is over after so long: one tick more, since now
// may lie late in its tick.
func (w *worker) lingerTick(left time.Duration) uint32 {
	return w.deadlines.after(min(left, math.MaxInt32*time.Millisecond)) + 1
}

// runLingers tells streams who did not come back.
func (w *worker) runLingers() {
	for n := range duePerTurn {
		if n >= endsPerTurn && w.budget <= 0 {
			return
		}
		i, ok := w.lists.lingers.next(w.deadlines.now)
		if !ok {
			return
		}
		s := w.slots.at(i.slot)
		if s.reuse != i.reuse || s.state != open || s.list == nil {
			continue // the follow has gone with its stream
		}
		w.endLinger(s, i)
	}
}

// endLinger looks at one user for one stream.
func (w *worker) endLinger(s *stream, i lingerItem) {
	l, ls := s.list, &w.lists
	if i.late {
		l.late--
	}
	if l.lost || s.lagging || l.catchUp != nil || !l.debts.empty() {
		w.putOff(l, i) // what it is owed comes first
		return
	}
	f := ls.follows.at(i.follow)
	if !f.lingers() {
		w.dropLinger(f)
		return
	}
	text, left := w.appendLingered(l, i.follow)
	if left > 0 {
		i.due, i.late = w.lingerTick(left), false
		ls.lingers.add(i)
		return
	}
	ls.piece.seal(text, 1, l.through)
	bytes := ls.piece.form(s.chunked)
	if s.backlog != nil && len(bytes) > w.writer.room(s) {
		w.putOff(l, i)
		return
	}
	l.lingers--
	w.dropLinger(f)
	w.budget -= lookCost + len(bytes)
	if len(bytes) > 0 {
		w.stats.Frames++
		w.send(s, bytes)
	}
}

// putOff has an item that is due looked at again soon.
func (w *worker) putOff(l *listStream, i lingerItem) {
	l.late++
	i.due, i.late = w.deadlines.now+putOffTicks, true
	w.lists.lingers.add(i)
}

// dropLinger says that a follow has no item any more.
func (w *worker) dropLinger(f *listFollow) {
	f.user &^= lingersBit | settledBit
	w.lists.lingers.live--
}

// appendLingered begins a piece with the frame of a user whose time may be over; left: it is not.
// There is none for a user that came back. An aggregate that has changed above the worker's through
// is in an event that is on its way, which says all.
func (w *worker) appendLingered(
	l *listStream, follow uint32,
) (text []byte, left time.Duration) {
	ls := &w.lists
	text = ls.piece.begin()
	at := Position{Through: l.through, Newest: l.through, Synced: true}
	text = append(w.appendID(text, l, at), userLine...)
	before := len(text)
	text, a := ls.codec.AppendUser(text, l.source, ls.follows.userOf(follow), 0,
		w.mail.through[l.source], l.linger)
	if a.Online > 0 || len(text) == before {
		text = text[:chunkRoom]
	}
	return text, a.Lingers
}

// openList makes an open stream one of many users.
func (w *worker) openList(s *stream, sub *Subscription) {
	ls := &w.lists
	l := &listStream{
		ids: sub.List.IDs, owner: sub.Owner, linger: sub.List.Linger, source: sub.Source,
		view: sub.List.View, resumed: sub.List.Resumed,
		follows: ls.follows.begin(s.slot, sub.List.Users),
	}
	w.budget -= linkCost * l.follows.users
	l.catchUp = &catchUp{after: sub.List.After, known: sub.List.Known, first: true}
	s.list = l
	ls.taking++
	ls.open++
}

// closeList ends a list stream's follows.
func (w *worker) closeList(s *stream) {
	l, ls := s.list, &w.lists
	w.writer.unfollow(s)
	ls.hashes = ls.hashes[:0]
	w.eachUser(s, func(user uuid.UUID) bool {
		ls.hashes = append(ls.hashes, hashOf(user))
		return true
	})
	w.in.unfollowList(l.view, ls.hashes)
	for i := range l.follows.users {
		if ls.follows.at(l.follows.at(i)).filed() {
			ls.lingers.live--
		}
	}
	ls.follows.end(&l.follows)
	w.budget -= linkCost * l.follows.users
	w.quota.give(l.owner, l.follows.users)
	ls.debts.clear(&l.debts)
	if l.catchUp != nil {
		w.endCatchUp(l)
	}
	s.list = nil
	ls.open--
	ls.lingers.compact(&w.slots)
}
