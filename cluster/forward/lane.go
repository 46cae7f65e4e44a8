package forward

import (
	"sync"
	"time"

	"rollcall/engine"
)

// lane is what goes to one node. Any goroutine may use it.
//
// While fewer than Options.InFlight of its messages have had no answer at all, a heartbeat leaves
// at once; from then on heartbeats gather in a message that leaves with the next first answer, when
// it is full, or after Options.Linger: so a partition that hangs at the owner holds up no other
// one's heartbeats, only its own.
type lane struct {
	of *Forwarder
	to string

	mu       sync.Mutex
	open     *message            // has not left; nil: none. guarded by mu
	inFlight map[uint64]*message // by number. guarded by mu
	number   uint64              // of the last message that left. guarded by mu
	oldest   uint64              // no message in flight has a lower number. guarded by mu
	waiting  int                 // heartbeats without an answer. guarded by mu
	unheard  int                 // messages in flight of which nothing was answered. guarded by mu
	room     chan struct{}       // closed when waiting is less; nil: nothing waits. guarded by mu
	closed   bool                // guarded by mu

	linger  *time.Timer // of open
	overdue *time.Timer // of inFlight
	timed   bool        // overdue runs. guarded by mu
}

// message is one that gathers, or is in flight.
type message struct {
	Beats
	began   time.Time // when its first heartbeat came
	lingers bool      // the timer will have it leave
	left    int       // heartbeats without an answer
	heard   bool      // something was answered
	until   time.Time // when it is overdue
}

func newLane(f *Forwarder, to string) *lane {
	l := &lane{of: f, to: to, inFlight: map[uint64]*message{}, oldest: 1}
	l.linger = time.AfterFunc(time.Hour, l.lingered)
	l.overdue = time.AfterFunc(time.Hour, l.expire)
	l.linger.Stop()
	l.overdue.Stop()
	return l
}

// add takes beats, and waits for room, wait at most. It tells the sinks of those that found none;
// false: there were such.
func (l *lane) add(b *Beats, wait time.Duration, around *Waits) bool {
	done := 0
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		done += l.fill(b, done)
		l.leaveIfDue()
		if done == b.Len() {
			return true
		}
		if l.closed || !l.awaitRoom(&wait, around) {
			break
		}
	}
	l.of.figures.count(outcomeFull, b.Len()-done)
	b.refuse(done)
	return false
}

// tryAdd takes beats if there is room for all of them.
func (l *lane) tryAdd(b *Beats) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.of.o.MaxWaiting-l.waiting < b.Len() {
		l.of.figures.count(outcomeFull, b.Len())
		return false
	}
	l.fill(b, 0)
	l.leaveIfDue()
	return true
}

// fill takes as many heartbeats as there is room for, and returns how many.
func (l *lane) fill(b *Beats, from int) int {
	taken := 0
	for from+taken < b.Len() {
		m := l.open
		n := min(b.Len()-from-taken, l.of.o.MaxWaiting-l.waiting)
		if n <= 0 || l.closed {
			break
		}
		if m == nil {
			m = &message{began: time.Now()}
			m.text = make([]byte, headBytes, headBytes+min(n, MaxBeats)*(beatBytes+32))
			l.open = m
		}
		n = min(n, MaxBeats-len(m.known))
		b.take(&m.Beats, from+taken, n)
		l.waiting += n
		taken += n
		if len(m.known) == MaxBeats {
			l.leave()
		}
	}
	return taken
}

// leaveIfDue has the open message leave, or sees to it that it will.
func (l *lane) leaveIfDue() {
	switch {
	case l.open == nil:
	case l.unheard < l.of.o.InFlight:
		l.leave()
	case !l.open.lingers:
		l.open.lingers = true
		l.linger.Reset(l.of.o.Linger)
	}
}

// lingered has the open message leave, which was long enough in it.
func (l *lane) lingered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		return
	}
	if rest := l.of.o.Linger - time.Since(l.open.began); rest > 0 {
		l.linger.Reset(rest)
		return
	}
	l.leave()
}

// leave puts the open message on its way.
func (l *lane) leave() {
	m := l.open
	l.open = nil
	l.number++
	m.left = len(m.known)
	m.until = time.Now().Add(l.of.o.Timeout)
	putHead(m.text, l.of.session, l.number, m.left)
	l.inFlight[l.number] = m
	l.unheard++
	l.of.figures.beats.Observe(float64(m.left))
	if !l.of.deliver(l.to, m.text) {
		l.fail(l.number, errFull, outcomeFull)
		return
	}
	if !l.timed {
		l.timed = true
		l.overdue.Reset(l.of.o.Timeout)
	}
}

// awaitRoom waits until there is less in the lane, for as long as is left of wait. mu is free
// meanwhile.
func (l *lane) awaitRoom(wait *time.Duration, around *Waits) bool {
	if *wait <= 0 {
		return false
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room, began := l.room, time.Now()
	l.mu.Unlock()
	around.begin()
	timer := time.NewTimer(*wait)
	defer timer.Stop()
	in := false
	select {
	case <-room:
		in = true
	case <-timer.C:
	}
	around.end()
	*wait -= time.Since(began)
	l.mu.Lock()
	return in
}

// answered takes answers of the node.
func (l *lane) answered(text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var m *message
	var number uint64
	err := readAnswers(text, l.of.session, func(n uint64) {
		number = n
		if m = l.inFlight[number]; m != nil {
			l.hear(m)
		}
	}, func(place int, c code, lastSeq uint64) {
		if m == nil || place >= len(m.known) {
			return // it is answered already
		}
		r := results[c]
		r.LastSeq = lastSeq
		l.tell(m, place, r, outcomeOf[c])
		if m.left == 0 {
			l.of.figures.took(l.to, time.Since(m.began))
			l.forget(number)
			m = nil
		}
	})
	l.leaveIfDue()
	return err
}

// hear notes that something of a message was answered.
func (l *lane) hear(m *message) {
	if !m.heard {
		m.heard = true
		l.unheard--
	}
}

// tell tells the sink of a heartbeat what came of it.
func (l *lane) tell(m *message, place int, r engine.Result, o outcome) {
	k := &m.known[place]
	sink := k.sink
	if sink == nil {
		return
	}
	k.sink = nil
	m.left--
	if l.waiting--; l.room != nil {
		close(l.room)
		l.room = nil
	}
	l.of.figures.count(o, 1)
	sink.Told(int(k.index), r, m.beat(place))
}

// forget takes a message out of those in flight.
func (l *lane) forget(number uint64) {
	delete(l.inFlight, number)
	for l.oldest <= l.number && l.inFlight[l.oldest] == nil {
		l.oldest++
	}
}

// fail tells all of a message in flight that has no answer yet that there will be none.
func (l *lane) fail(number uint64, why error, o outcome) {
	m := l.inFlight[number]
	l.hear(m)
	r := failed(why)
	r.LogFull = why == errFull
	for i := range m.known {
		l.tell(m, i, r, o)
	}
	l.forget(number)
}

// expire fails the messages that are overdue.
func (l *lane) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timed = false
	now := time.Now()
	for m := l.inFlight[l.oldest]; m != nil; m = l.inFlight[l.oldest] {
		if rest := m.until.Sub(now); rest > 0 {
			l.timed = true
			l.overdue.Reset(rest)
			break
		}
		l.fail(l.oldest, errNoAnswer, outcomeTimeout)
	}
	l.leaveIfDue()
}

// down fails everything: the node is gone. close: nothing is taken any more, either.
func (l *lane) down(why error, o outcome, close bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed = l.closed || close; l.closed {
		l.linger.Stop()
		l.overdue.Stop()
	}
	if m := l.open; m != nil {
		l.open = nil
		l.number++
		m.left = len(m.known)
		l.inFlight[l.number] = m
		l.unheard++
	}
	for l.inFlight[l.oldest] != nil {
		l.fail(l.oldest, why, o)
	}
}

// failed is the result of a heartbeat that may have been applied or not.
func failed(why error) engine.Result {
	return engine.Result{Outcome: engine.Unavailable, Err: why}
}
