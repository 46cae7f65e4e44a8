package watch

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

const (
	tickTime = 250 * time.Millisecond
	// releasesAtOnce bounds how many users of streams that have ended are released while other
	// streams cannot open, about.
	releasesAtOnce = 10_000
	// dropsPerTick bounds the users that are dropped in a tick, so that they are no stampede when
	// very many streams have ended together.
	dropsPerTick = 2048
)

// rouse has users asked for, soon. The caller holds mu.
func (e *Edge) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run asks for users and watches the time, until Close.
func (e *Edge) run() {
	timer := time.NewTimer(e.o.Clock.Until(tickTime))
	defer timer.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-timer.C:
			e.tick()
			timer.Reset(e.o.Clock.Until(tickTime))
		case <-e.wake:
			time.Sleep(e.o.Gather)
			e.ask()
		}
	}
}

// tick releases the users of streams that have ended, drops users without streams, and looks for
// owners that are silent or do not answer.
func (e *Edge) tick() {
	e.shedAgain()
	e.releaseEnded()
	e.applying.Lock()
	defer e.applying.Unlock()
	now := e.o.Clock.Nanos()
	e.mu.Lock()
	dropped := e.takeIdle(now)
	for i := range e.parts {
		e.look(&e.parts[i], now)
	}
	e.mu.Unlock()
	if len(dropped) > 0 {
		e.o.Follower.Update(0, func(c Changes) {
			for _, id := range dropped {
				c.Drop(id)
			}
		})
	}
	e.ask()
}

// look has a partition's users asked for again where that is due.
func (e *Edge) look(p *partition, now int64) {
	if len(p.users) == 0 {
		p.doubtNanos = 0
		return
	}
	if p.epoch != 0 && !p.silent && now-p.heardNanos > silentNanos {
		p.silent = true
		e.counts.Silences++
		p.doubt(now)
	}
	p.prove = p.prove || len(p.stale) > 0
	waiting := p.begun < len(p.users)
	p.askAll = p.askAll || p.askLater ||
		waiting && (now-p.movedNanos > askNanos || now-p.askedAllNanos > askAllNanos)
}

// releaseEnded releases the users of streams that have ended.
func (e *Edge) releaseEnded() {
	pins := e.ends.take()
	now := e.o.Clock.Nanos()
	for len(pins) > 0 {
		e.mu.Lock()
		for n := 0; len(pins) > 0 && n < releasesAtOnce; pins = pins[1:] {
			p := pins[0]
			n += len(p.users)
			if w := p.wait; w != nil && !w.begun {
				w.begun = true
				e.held--
				if now >= w.hold.UntilNanos {
					e.counts.Unanswered++
				}
			}
			for _, u := range p.users {
				e.release(u, now)
			}
		}
		e.mu.Unlock()
	}
}

// takeIdle takes users out that have had no stream for long enough, and has their owners unwatch
// them. The caller holds applying and mu.
func (e *Edge) takeIdle(now int64) (dropped []uuid.UUID) {
	for range dropsPerTick {
		u := e.idle.pop(now - int64(e.o.Linger))
		if u == nil {
			break
		}
		u.queued = false
		switch {
		case u.refs > 0:
		case now-u.idleNanos < int64(e.o.Linger): // it had one meanwhile
			u.queued = true
			e.idle.push(u, u.idleNanos)
		default:
			u.part.forget(u)
			delete(u.part.users, u.id)
			e.users--
			u.part.unwant(u.id)
			dropped = append(dropped, u.id)
			e.certain(u.part)
		}
	}
	return dropped
}

// ask sends owners what there is to say: whom to watch, and whom not any more. All of it is sent
// with mu held, so that an owner never unwatches a user who was asked for since.
func (e *Edge) ask() {
	now := e.o.Clock.Nanos()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.parts {
		p := &e.parts[i]
		if p.owner == "" {
			continue
		}
		e.sendUnwanted(p)
		if p.prove {
			e.sendProve(p, now)
		}
		if p.askAll {
			p.toAsk()
			p.askAll, p.askLater, p.askedAllNanos = false, false, now
		}
		if n := min(len(p.ask), e.window); n > 0 {
			e.sendWatch(p, p.ask[:n], now)
			p.bulk = append(p.bulk, p.ask[n:]...)
			p.ask = nil
		}
		e.sendBulk(p, now)
	}
}

// toAsk begins a round: all users that have not begun are to be asked for, whatever of earlier
// questions is still under way.
func (p *partition) toAsk() {
	p.round++
	p.ask, p.bulk, p.flying = nil, nil, 0
	var others []*user
	for _, u := range p.users {
		switch {
		case u.generation == p.generation:
		case len(u.waits) > 0:
			p.bulk = append(p.bulk, u)
		default:
			others = append(others, u)
		}
	}
	p.bulk = append(p.bulk, others...)
}

// sendBulk asks for as many users as fit into the window, when half of it is free.
func (e *Edge) sendBulk(p *partition, now int64) {
	if len(p.bulk) > 0 && p.flying <= e.window/2 {
		n := min(len(p.bulk), e.window-p.flying)
		e.sendWatch(p, p.bulk[:n], now)
		p.bulk = p.bulk[n:]
	}
}

// sendProve has the owner show that it is one, by the answer to a WATCH of no user. One question at
// a time is under way, but for those that were lost.
func (e *Edge) sendProve(p *partition, now int64) {
	p.prove = false
	if p.proving != 0 && now-p.provingNanos < askNanos {
		return
	}
	p.question++
	p.proving, p.provingNanos = p.question, now
	l := lister{e: e, p: p, kind: kindWatch}
	l.begin()
	e.o.Bus.Send(p.owner, HubSubject, l.message)
}

func (e *Edge) sendUnwanted(p *partition) {
	if len(p.unwanted) == 0 {
		return
	}
	l := lister{e: e, p: p, kind: kindUnwatch}
	for id := range p.unwanted {
		if p.users[id] == nil {
			l.add(id)
		}
	}
	l.send()
	p.unwanted = nil
}

func (e *Edge) sendWatch(p *partition, users []*user, now int64) {
	p.question++
	p.movedNanos = now
	l := lister{e: e, p: p, kind: kindWatch}
	for _, u := range users {
		if u.generation == p.generation || p.users[u.id] != u {
			continue
		}
		if u.asked < p.since {
			u.asked, u.askedNanos = p.question, now
		}
		p.flies(u)
		l.add(u.id)
	}
	l.send()
}

// lister makes the messages that a list of users needs.
type lister struct {
	e       *Edge
	p       *partition
	kind    byte
	message []byte
	n       int
}

func (l *lister) add(id uuid.UUID) {
	if l.n == 0 {
		l.begin()
	}
	l.message = append(l.message, id[:]...)
	if l.n++; l.n == usersPerWatch {
		l.send()
	}
}

func (l *lister) begin() {
	l.message = appendHead(nil, head{l.kind, l.p.index, l.p.epoch})
	if l.kind == kindWatch {
		l.message = binary.LittleEndian.AppendUint64(l.message, l.p.question)
	}
}

func (l *lister) send() {
	if l.n > 0 {
		l.e.o.Bus.Send(l.p.owner, HubSubject, l.message)
	}
	l.message, l.n = nil, 0
}
