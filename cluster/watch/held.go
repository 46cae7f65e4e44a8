package watch

import (
	"sync"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
)

// pin keeps the users of a stream watched.
type pin struct {
	users []*user
	wait  *wait // nil: the stream has begun at once
}

// wait is a stream that waits for the states of its users. Guarded by Edge.mu.
type wait struct {
	users       []*user
	openedNanos int64
	hold        broadcast.Hold
	pending     int  // users that are to be told, and partitions that are to be fresh
	taken       bool // the Follower has the stream
	begun       bool // it has begun, or ended
}

// pin watches the users of a stream that is about to open, or finds that it may not.
func (e *Edge) pin(ids []uuid.UUID) (*pin, error) {
	now := e.o.Clock.Nanos()
	e.mu.Lock()
	defer e.mu.Unlock()
	unknown, ready := 0, true // now
	for _, id := range ids {
		p := &e.parts[e.o.Of(id)]
		u := p.users[id]
		if u == nil {
			unknown++
		}
		ready = ready && u != nil && p.told(u) && p.fresh(now)
	}
	switch {
	case e.isolated:
		return nil, ErrIsolated
	case e.users+unknown > e.o.MaxUsers:
		return nil, broadcast.ErrTooManyFollows
	case !ready && e.held >= e.o.MaxHeld:
		return nil, broadcast.ErrTooMany
	}
	pn := &pin{users: make([]*user, len(ids))}
	for i, id := range ids {
		pn.users[i] = e.watch(id)
		pn.users[i].refs++
	}
	if !ready {
		e.held++
		pn.wait = &wait{
			users: pn.users, openedNanos: now,
			hold: broadcast.Hold{UntilNanos: now + int64(e.o.Hold)},
		}
		e.await(pn.wait, now)
	}
	return pn, nil
}

// await has a stream wait for what it lacks now: users that are not told, and partitions that are
// not fresh, but for those whose owner has answered since it opened.
func (e *Edge) await(w *wait, nowNanos int64) {
	e.marks++
	for _, u := range w.users {
		switch p := u.part; {
		case !p.told(u):
			w.pending++
			u.waits = append(live(u.waits), w)
		case p.fresh(nowNanos) || max(u.askedNanos, p.asOfNanos) >= w.openedNanos:
		case p.mark != e.marks:
			p.mark = e.marks
			w.pending++
			p.stale = append(live(p.stale), w)
			p.prove = true
			e.rouse()
		}
	}
}

// watch returns a user that is watched, from now on if it was not.
func (e *Edge) watch(id uuid.UUID) *user {
	p := &e.parts[e.o.Of(id)]
	u := p.users[id]
	if u == nil {
		u = &user{id: id, part: p}
		p.users[id] = u
		e.users++
		if p.ask = append(p.ask, u); len(p.ask) == 1 {
			e.rouse()
		}
	}
	return u
}

// live leaves out those that have begun or ended, when a list would grow.
func live(waits []*wait) []*wait {
	if len(waits) < cap(waits) {
		return waits
	}
	n := 0
	for _, w := range waits {
		if !w.begun {
			waits[n] = w
			n++
		}
	}
	clear(waits[n:])
	if waits = waits[:n]; n > cap(waits)/2 {
		waits = append(make([]*wait, 0, 2*cap(waits)), waits...)
	}
	return waits
}

// lessen takes one away from what a stream waits for, and appends it to begin if that was the last.
// What came first may be in doubt by then, so that it waits again: a stream begins at an instant at
// which all of its users are told and nothing is old (E4).
func (e *Edge) lessen(w *wait, begin []*wait) []*wait {
	if w.pending--; w.pending > 0 || w.begun {
		return begin
	}
	if e.await(w, e.o.Clock.Nanos()); e.ready(w) {
		begin = append(begin, w)
	}
	return begin
}

// taken notes that the Follower has a stream that waits; true: the caller lets it begin.
func (e *Edge) taken(w *wait) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.taken = true
	if w.pending == 0 && !w.begun {
		e.await(w, e.o.Clock.Nanos())
	}
	return e.ready(w)
}

// ready reports, once, that a stream may begin.
func (e *Edge) ready(w *wait) bool {
	if w.pending > 0 || !w.taken || w.begun {
		return false
	}
	w.begun = true
	e.held--
	return true
}

// begin lets streams begin, with no lock of a partition held.
func (e *Edge) begin(waits []*wait) {
	for _, w := range waits {
		e.o.Follower.Begin(&w.hold)
	}
}

// release takes a stream away from a user.
func (e *Edge) release(u *user, nowNanos int64) {
	if u.refs--; u.refs == 0 {
		u.idleNanos = nowNanos
		if !u.queued {
			u.queued = true
			e.idle.push(u, nowNanos)
		}
	}
}

// ends are streams that have ended and whose users are to be released. Workers add to it, and are
// not to wait: it has a lock of its own, which is held for no work. It is as long as streams end
// within a tick.
type ends struct {
	mu   sync.Mutex
	pins []*pin
}

func (d *ends) add(p *pin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pins = append(d.pins, p)
}

func (d *ends) take() (pins []*pin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pins, d.pins = d.pins, nil
	return pins
}

// idleUsers are users without a stream, the one that has been for the longest time first. Some may
// have got one since.
type idleUsers struct {
	items []idleUser
	first int
}

type idleUser struct {
	u     *user
	since int64
}

func (q *idleUsers) push(u *user, since int64) {
	if q.first > len(q.items)/2 {
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items, q.first = q.items[:n], 0
	}
	q.items = append(q.items, idleUser{u, since})
}

// pop returns the first if it is idle since an instant that is not after before.
func (q *idleUsers) pop(before int64) *user {
	if q.first == len(q.items) || q.items[q.first].since > before {
		return nil
	}
	u := q.items[q.first].u
	q.items[q.first] = idleUser{}
	q.first++
	return u
}
