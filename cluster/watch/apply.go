package watch

import (
	"errors"

	"rollcall/cluster/bus"
	"rollcall/engine"
)

// Owner says which node owns a partition, by which claim; "": the partition has no owner now. A
// claim that is older than the newest is not listened to.
func (e *Edge) Owner(p int, node string, epoch uint64) {
	e.applying.Lock()
	defer e.applying.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if p < 0 || p >= len(e.parts) || epoch < e.parts[p].epoch {
		return
	}
	pt := &e.parts[p]
	if epoch > pt.epoch {
		e.claimed(pt, node, epoch)
	}
	if pt.owner != node {
		pt.owner, pt.asOfNanos = node, 0
		e.rouse()
	}
}

// Pulsed says that a pulse of an owner came: it has sent this node so many messages of the
// partition by its claim, and showed that it was the owner at asOfNanos of the edge's clock or
// later: then an append began that was acknowledged. 0: when is not known. Call it from the handler
// of the subject on which Receive's messages come, so that it is in order with them.
func (e *Edge) Pulsed(from string, p int, epoch, number uint64, asOfNanos int64) {
	if p < 0 || p >= len(e.parts) {
		return
	}
	e.applying.Lock()
	defer e.applying.Unlock()
	if e.ended {
		return
	}
	e.mu.Lock()
	pt := &e.parts[p]
	if epoch < pt.epoch {
		e.mu.Unlock()
		return
	}
	if epoch > pt.epoch || pt.owner != from {
		e.adopt(pt, from, epoch)
	}
	if number > pt.number { // a pulse that was made earlier has a lower one
		pt.number = number
		e.gap(pt)
	}
	pt.hear(e.o.Clock.Nanos())
	begin := e.assured(pt, asOfNanos)
	e.mu.Unlock()
	e.begin(begin)
}

// Receive takes a message of EdgeSubject that is Ours. It applies it, which takes about as long as
// its records would take in an engine. Call it from the handler of that subject.
func (e *Edge) Receive(m bus.Message) {
	h, rest, err := cutHead(m.Data)
	if err == nil && h.partition >= len(e.parts) {
		err = errMessage
	}
	var n numbered
	if err == nil {
		n, rest, err = cutNumbered(rest)
	}
	if err == nil {
		e.applying.Lock()
		defer e.applying.Unlock()
		if e.ended {
			return
		}
		switch h.kind {
		case kindSnapshot:
			err = e.snapshot(m.From, h, n, rest)
		case kindDelta:
			err = e.delta(m.From, h, n, rest)
		default:
			err = errMessage
		}
	}
	if err == nil {
		return
	}
	e.mu.Lock()
	e.counts.Unread++
	e.mu.Unlock()
	if e.odd.Take() {
		e.o.Logger.Warn("a message of an owner cannot be taken: its users are asked for again",
			"node", m.From, "partition", h.partition, "error", err)
	}
}

// delta applies the changes of a batch. The caller holds applying.
func (e *Edge) delta(from string, h head, n numbered, rest []byte) error {
	s := &e.scratch
	recs, err := cutStates(s.recs[:0], rest)
	s.recs = recs[:0]
	e.mu.Lock()
	p := &e.parts[h.partition]
	if !e.admit(p, from, h, n, err) {
		e.mu.Unlock()
		return err
	}
	apply := recs[:0]
	s.touched, s.told = s.touched[:0], s.told[:0]
	for _, rec := range recs {
		u := p.users[rec.User()]
		switch {
		case u == nil:
			p.unwant(rec.User())
		case u.generation != p.generation: // what it is told next has it
		case u.settling != nil:
			u.settling.add(rec)
			s.touched = append(s.touched, u)
		default:
			apply = append(apply, rec)
		}
	}
	for _, u := range s.touched {
		if u.settling != nil && u.settling.until <= n.through {
			s.told = append(s.told, u)
			u.settling.until = noUntil // once
		}
	}
	e.mu.Unlock()

	s.failed = s.failed[:0]
	if len(apply) > 0 || len(s.told) > 0 {
		e.o.Follower.Update(e.received(n.word), func(c Changes) {
			for _, rec := range apply {
				if cErr := c.Change(rec); cErr != nil {
					err = errors.Join(err, cErr)
					s.failed = append(s.failed, rec.User())
				}
			}
			for i, u := range s.told {
				if rErr := c.Replace(u.id, u.settling.told, u.settling.all); rErr != nil {
					err = errors.Join(err, rErr)
					s.told[i] = nil
					s.failed = append(s.failed, u.id)
				}
			}
		})
	}

	var begin []*wait
	e.mu.Lock()
	for _, u := range s.told {
		if u != nil {
			u.settling = nil
			begin = e.told(u, begin)
		}
	}
	e.finish(p)
	e.mu.Unlock()
	e.begin(begin)
	return err
}

// noUntil is above all LSNs.
const noUntil = 1<<64 - 1

// maxAge is the highest age of a batch that is believed, in microseconds: some minutes.
const maxAge = 1 << 28

// received is when a batch was received of which so many microseconds have passed.
func (e *Edge) received(age uint64) int64 {
	if age > maxAge {
		return 0
	}
	return max(e.o.Clock.Nanos()-int64(age)*1000, 1)
}

// snapshot applies what an owner says of users that it was asked for. The caller holds applying.
func (e *Edge) snapshot(from string, h head, n numbered, rest []byte) error {
	s := &e.scratch
	parts, err := cutParts(s.parts[:0], rest)
	s.parts = parts[:0]
	e.mu.Lock()
	p := &e.parts[h.partition]
	if !e.admit(p, from, h, n, err) {
		e.mu.Unlock()
		return err
	}
	p.movedNanos = p.heardNanos
	replace := parts[:0]
	s.told, s.failed = s.told[:0], s.failed[:0]
	for i := range parts {
		pt := &parts[i]
		u := p.users[pt.user]
		switch {
		case u == nil:
			p.unwant(pt.user)
		case p.told(u): // it was asked for twice
		case u.asked < p.since || n.word < u.asked:
			// It answers a question from before the doubt, or from before the user was unwatched
			// and watched again: the hub may have it unwatched after the answer.
		case !p.joined.add(pt):
		case pt.until > n.through:
			p.begin(u, &settling{told: pt.told, until: pt.until, states: clone(pt.states)})
		default:
			replace = append(replace, *pt)
			s.told = append(s.told, u)
		}
	}
	e.mu.Unlock()

	if len(replace) > 0 {
		e.o.Follower.Update(0, func(c Changes) {
			for i := range replace {
				pt := &replace[i]
				rErr := c.Replace(pt.user, pt.told, func(yield func([]byte) bool) {
					engine.EachState(pt.states, yield)
				})
				if rErr != nil {
					err = errors.Join(err, rErr)
					s.told[i] = nil
				}
			}
		})
	}

	var begin []*wait
	e.mu.Lock()
	for _, u := range s.told {
		if u != nil {
			p.begin(u, nil)
			begin = e.told(u, begin)
		}
	}
	e.sendBulk(p, p.movedNanos)
	e.finish(p)
	begin = append(begin, e.proved(p, n.word)...)
	e.mu.Unlock()
	clear(parts)
	e.begin(begin)
	return err
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// finish ends an application: users whose states could not be taken have none.
func (e *Edge) finish(p *partition) {
	for _, id := range e.scratch.failed {
		if u := p.users[id]; u != nil {
			p.forget(u) // it is asked for again, with a tick
		}
	}
	e.certain(p)
}

// certain notes that a doubt is over.
func (e *Edge) certain(p *partition) {
	if p.doubtNanos != 0 && p.doubted == 0 {
		e.rewatch.Observe(float64(e.o.Clock.Nanos()-p.doubtNanos) / 1e9)
		p.doubtNanos = 0
	}
}

// told lets streams begin that waited for a user, if they wait for no other.
func (e *Edge) told(u *user, begin []*wait) []*wait {
	waits := u.waits
	u.waits = nil // some may wait again
	for _, w := range waits {
		begin = e.lessen(w, begin)
	}
	return begin
}

// admit looks at who sent a message, by which claim, and at its number; false: it is not to be
// applied. One that cannot be read is one that is missing. The caller holds applying and mu.
func (e *Edge) admit(p *partition, from string, h head, n numbered, unreadable error) bool {
	if h.epoch < p.epoch {
		return false
	}
	if h.epoch > p.epoch || p.owner != from {
		e.adopt(p, from, h.epoch)
	}
	if n.number <= p.number {
		return false
	}
	p.hear(e.o.Clock.Nanos())
	missing := n.number != p.number+1
	p.number = n.number
	// Where no states have come there are none to doubt, and this may be the answer.
	if missing && p.begun > 0 || unreadable != nil {
		e.gap(p)
	}
	p.joined.open = p.joined.open && !missing
	return unreadable == nil
}

// adopt takes up that a node is the owner.
func (e *Edge) adopt(p *partition, from string, epoch uint64) {
	if epoch > p.epoch {
		e.claimed(p, from, epoch)
	}
	p.owner = from
	e.rouse()
}

// claimed takes up a new claim: what the former owner told is in doubt.
func (e *Edge) claimed(p *partition, node string, epoch uint64) {
	p.owner, p.epoch, p.number = node, epoch, 0
	p.hear(e.o.Clock.Nanos())
	p.asOfNanos, p.askedAllNanos, p.proving = 0, 0, 0
	if len(p.users) > 0 {
		e.counts.Claims++
	}
	p.doubt(p.heardNanos)
	e.rouse()
}

// gap takes up that messages are missing.
func (e *Edge) gap(p *partition) {
	if len(p.users) > 0 {
		e.counts.Gaps++
	}
	p.doubt(e.o.Clock.Nanos())
	e.rouse()
}

// proved notes that the owner has answered a question: an append that began after the question was
// acknowledged. It returns the streams that may begin now.
func (e *Edge) proved(p *partition, question uint64) (begin []*wait) {
	if p.proving == 0 || question < p.proving {
		return nil
	}
	p.proving = 0
	return e.assured(p, p.provingNanos)
}

// assured notes when a node was the owner, and returns the streams that may begin now.
func (e *Edge) assured(p *partition, asOfNanos int64) (begin []*wait) {
	if asOfNanos <= p.asOfNanos {
		return nil
	}
	p.asOfNanos = asOfNanos
	waits := p.stale
	p.stale = nil // some may wait again
	for _, w := range waits {
		begin = e.lessen(w, begin)
	}
	return begin
}
