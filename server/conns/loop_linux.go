package conns

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readBytes is what one turn reads of a connection, at most. What is left is reported again,
	// behind that of the others.
	readBytes = 16 << 10
	// textBytes is what a turn can hold before it applies.
	textBytes = 256 << 10
	// turnAnswers is how many requests a turn applies before it answers, or some more.
	turnAnswers = 4096
	// maxOwed is how many answers may wait for a commit. Where there are as many, nothing is read:
	// the log has room for fewer, as a rule.
	maxOwed = 1 << 16
	// partTime is for how long the rest of a request may be on its way. Then it is fasthttp's to
	// wait for it, and to answer when it does not come.
	partTime = time.Second
	// sweepEvery is how often a loop looks for connections that waited too long. One may be closed
	// by so much, and IdleAfter, later than IdleTimeout.
	sweepEvery = time.Second
	// slowCommit is how long a loop is away in a commit before another goroutine reads for it.
	slowCommit = 25 * time.Millisecond
)

// loop serves plain requests of many connections, and keeps those that are idle. One goroutine, its
// reader, takes turns:
//
//	wait ► read what each has sent ► apply, in groups ► commit ► write: one text for each connection
//	          └ not plain ► leave: back to fasthttp, with its bytes, when what came before is answered
//
// A commit is made by the reader itself: a batch forms in the sockets meanwhile, and
// no goroutine has to be woken. Everything but waiting and committing is done with mu held. So any
// goroutine can take the reader's place while it is away, and does when it is away for long: the
// disk hangs, and there are other requests. Who commits then comes back to a loop that has another
// reader, writes the answers that have become due, commits what was applied meanwhile, and ends.
//
//	reader                              watch                      the reader that follows
//	commit(7): mu is free
//	│  the disk hangs                   slowCommit is over:
//	│                                   reader++, go run           reads: a stream, a heartbeat (8)
//	│                                   the log is stalled: 503    new heartbeats are fasthttp's,
//	│                                   for all that are owed      which are answered 503
//	commit returns: nothing is owed
//	any more for 7; reader changed: ends
//
// Where answers come from elsewhere (Later), a turn submits what it read, each request under its
// connection's token, and another goroutine, the collector, answers what has come back. Two
// connections' answers do not wait for each other. Those of one connection stay in their order,
// since one request of it is on its way at a time: one that comes before the answer to the last is
// fasthttp's.
type loop struct {
	*loops
	requests Requests // nil: no request is plain
	later    Later    // of requests; nil: they are committed here
	epoll    int
	wake     int // an eventfd that ends a wait
	done     chan struct{}

	groupSize int // set before it reads

	// committing is when the commit in flight began, since the loops did; 0: none is. The
	// goroutine in settle stores it, watch loads it.
	committing atomic.Int64
	commits    atomic.Uint64 // that have begun
	seen       uint64        // of commits. Single owner: watch
	stoodIn    int64         // the commit during which a reader was replaced. Single owner: watch

	mu      sync.Mutex
	slots   slots          // guarded by mu
	reader  uint64         // the number of the goroutine that reads. guarded by mu
	wakesAt time.Duration  // until when the reader waits, at most. guarded by mu
	away    bool           // a goroutine is in settle. guarded by mu
	owing   []turn         // turns whose answers wait, in the order of their LSNs. guarded by mu
	owed    int            // the answers of these. guarded by mu
	spare   [][]owedAnswer // emptied ones. guarded by mu
	parts   [][]byte       // no longer used. guarded by mu
	settled sync.Cond      // with mu: owed is less, or more
	sweepAt time.Duration
	closing bool // guarded by mu
	closed  bool // the descriptors are. guarded by mu

	// Of the turn in progress; guarded by mu.
	now     time.Duration
	buffer  []byte
	used    int // of buffer
	group   [GroupSize]taken
	n       int // of group
	results [GroupSize]Answer
	tokens  [GroupSize]uint64
	turn    turn
	gone    []uint64 // tokens of connections that leave or end, once nothing is owed to them
	texts   []byte   // of the answers to one connection
	same    []Answer // to one connection

	entered, plain, returned, standIns uint64 // guarded by mu
}

// taken is a plain request that was read, and all that was read behind it of its connection.
type taken struct {
	slot uint32
	text []byte
}

// turn is the answers of requests that were applied together, and what they depend on.
type turn struct {
	lsn     uint64
	answers []owedAnswer
}

// owedAnswer is one that waits for a commit.
type owedAnswer struct {
	token uint64
	Answer
}

func newLoop(of *loops, requests Requests) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &loop{loops: of, requests: requests, epoll: epoll, wake: wake, done: make(chan struct{})}
	l.settled.L = &l.mu
	l.slots.reset()
	// Its token, 0, is no connection's.
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake,
		&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}); err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return l, nil
}

// start begins to read.
func (l *loop) start() {
	if l.requests == nil {
		l.buffer = make([]byte, readBytes)
		go l.run(0)
		return
	}
	l.buffer = make([]byte, textBytes)
	l.groupSize = l.requests.GroupSize()
	if l.later = l.requests.Later(); l.later != nil {
		go l.collector()
	}
	go l.run(0)
}

// run is a reader, until it has a follower or the loop ends.
func (l *loop) run(number uint64) {
	var events [256]unix.EpollEvent
	l.mu.Lock()
	for {
		for l.owed >= maxOwed && l.reader == number {
			l.settled.Wait()
		}
		if l.reader != number {
			break
		}
		timeout := l.untilSweep()
		l.mu.Unlock()
		n := wait(l.epoll, events[:], timeout)
		l.mu.Lock()
		if l.reader != number {
			break
		}
		l.serve(events[:n])
		l.settle()
		if l.reader != number {
			break
		}
		if l.closing && l.wind(n) {
			break
		}
	}
	l.mu.Unlock()
}

// untilSweep is how long the reader may wait, in milliseconds; -1: as long as nothing happens.
func (l *loop) untilSweep() int {
	if l.closing {
		return 1
	}
	l.wakesAt = math.MaxInt64
	for in := range rings {
		if index := l.slots.oldest(in); index != 0 {
			l.wakesAt = min(l.wakesAt, l.slots.all[index].until)
		}
	}
	if l.wakesAt == math.MaxInt64 {
		return -1
	}
	l.wakesAt = max(l.wakesAt, l.sweepAt)
	wait := max(0, l.wakesAt-time.Since(l.began))/time.Millisecond + 1
	return int(min(wait, math.MaxInt32))
}

// wait waits for reports of connections.
func wait(epoll int, events []unix.EpollEvent, timeout int) int {
	if n := ready(epoll, events); n > 0 || timeout == 0 {
		return n
	}
	n, err := unix.EpollWait(epoll, events, timeout)
	if err != nil {
		return 0 // a signal came
	}
	return n
}

// serve is a turn but for the commit.
func (l *loop) serve(events []unix.EpollEvent) {
	l.now, l.used = time.Since(l.began), 0
	if n := len(l.spare); n > 0 && l.turn.answers == nil {
		l.turn.answers, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	for i := range events {
		e := &events[i]
		index := l.slots.find(uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd)))
		switch {
		case index == 0:
		case l.slots.all[index].watched == room:
			l.sendMore(index)
		default:
			l.read(index)
		}
		if len(l.turn.answers) >= turnAnswers {
			break // the others are reported again
		}
	}
	l.apply()
	if len(l.turn.answers) > 0 {
		if n := len(l.owing); n > 0 { // a turn of stale requests depends on older records
			l.turn.lsn = max(l.turn.lsn, l.owing[n-1].lsn)
		}
		l.owing = append(l.owing, l.turn)
		l.owed += len(l.turn.answers)
		l.turn = turn{}
	}
	l.part()
	if l.now >= l.sweepAt {
		l.sweep()
	}
}

// read reads what a connection has sent, and takes the plain requests of it.
func (l *loop) read(index uint32) {
	s := &l.slots.all[index]
	var had int
	if m := s.more; m != nil {
		had = len(m.part)
	}
	if len(l.buffer)-l.used < had+readBytes {
		l.apply()
		l.used = 0
		if s = &l.slots.all[index]; s.leaving {
			return
		}
		if len(l.buffer) < had+readBytes {
			l.buffer = make([]byte, had+readBytes)
		}
	}
	b := l.buffer[l.used:]
	if had > 0 {
		copy(b, s.more.part)
	}
	n, errno := read(s.fd, b[had:had+readBytes])
	switch {
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
		return
	case n == 0 && had > 0: // fasthttp has an answer to half a request
		l.leave(index, b[:had])
		return
	case errno != 0 || n == 0:
		l.end(index, errno != 0)
		return
	}
	l.used += had + n
	l.take(index, b[:had+n], had)
}

// take takes the plain requests of what a connection has sent, of which it sent had bytes before.
func (l *loop) take(index uint32, text []byte, had int) {
	s := &l.slots.all[index]
	if l.requests == nil || !s.peer.known {
		l.leave(index, text)
		return
	}
	first := true
	for len(text) > 0 {
		if l.later != nil && !l.mayTake(s, first) {
			l.leave(index, text)
			return
		}
		size := l.requests.Read(s.peer.addr, text)
		if size < 0 {
			l.keep(index, text, first && had > 0)
			return
		}
		if size == 0 {
			l.leave(index, text)
			return
		}
		first = false
		l.group[l.n] = taken{index, text}
		if l.n++; l.n == l.groupSize {
			l.apply()
			if s.leaving {
				return
			}
		}
		text = text[size:]
	}
	l.dropPart(s.more)
	l.rest(index)
}

// mayTake reports whether the next request of a connection may be submitted: no other is on its
// way.
func (l *loop) mayTake(s *slot, first bool) bool {
	if !first {
		l.submit() // the one before it, which is owed an answer before the connection leaves
	}
	return s.owed == 0
}

// rest makes a connection wait for its next request. Where it did so a moment ago it keeps its
// place in the ring, whose order is right within sweepEvery then.
func (l *loop) rest(index uint32) {
	s := &l.slots.all[index]
	until := l.now + l.timeout
	if s.ring == known && until-s.until < sweepEvery/2 {
		return
	}
	s.until = until
	l.slots.put(index, known)
}

// keep keeps a part of a request. again: it was kept before, and has grown.
func (l *loop) keep(index uint32, text []byte, again bool) {
	s, m := &l.slots.all[index], l.slots.moreOf(index)
	if n := len(l.parts); m.part == nil && n > 0 {
		m.part, l.parts = l.parts[n-1], l.parts[:n-1]
	}
	m.part = append(m.part[:0], text...)
	if again {
		return
	}
	m.since = l.now
	s.until = l.now + partTime
	l.slots.put(index, partial)
}

// dropPart forgets the part of a request that has become whole.
func (l *loop) dropPart(m *more) {
	if m == nil || m.part == nil {
		return
	}
	if cap(m.part) <= partBytes && len(l.parts) < maxSpare {
		l.parts = append(l.parts, m.part[:0])
	}
	m.part = nil
}

// apply applies the requests that were taken. One that cannot be applied at once is fasthttp's, and
// so is what comes behind it of the same connection.
func (l *loop) apply() {
	if l.later != nil {
		l.submit()
		return
	}
	for l.n > 0 {
		n, lsn := l.requests.Apply(l.results[:l.n])
		if n > 0 {
			l.turn.lsn = max(l.turn.lsn, lsn)
		}
		l.plain += uint64(n)
		for i, r := range l.group[:n] {
			s := &l.slots.all[r.slot]
			s.owed++
			if s.served < servedEnough {
				s.served++
			}
			l.turn.answers = append(l.turn.answers,
				owedAnswer{l.slots.token(r.slot), l.results[i]})
		}
		group := l.group[:l.n]
		l.n = 0
		if n == len(group) {
			return
		}
		l.leave(group[n].slot, group[n].text)
		for _, r := range group[n+1:] {
			s := &l.slots.all[r.slot]
			if s.leaving && len(r.text) <= len(s.more.text) {
				continue // it goes with what leaves; a longer text is in front of that
			}
			if l.requests.Read(s.peer.addr, r.text) <= 0 {
				l.leave(r.slot, r.text)
				continue
			}
			l.group[l.n] = r
			l.n++
		}
	}
}

// submit hands over the requests that were taken. The collector answers them.
func (l *loop) submit() {
	if l.n == 0 {
		return
	}
	for i, r := range l.group[:l.n] {
		s := &l.slots.all[r.slot]
		s.owed++
		if s.served < servedEnough {
			s.served++
		}
		l.tokens[i] = l.slots.token(r.slot)
	}
	l.later.Submit(l.tokens[:l.n])
	l.owed += l.n
	l.plain += uint64(l.n)
	l.n = 0
}

// leave notes that a connection goes back to fasthttp with a text, once everything before is
// answered.
func (l *loop) leave(index uint32, text []byte) {
	s, m := &l.slots.all[index], l.slots.moreOf(index)
	m.text = bytes.Clone(text)
	if s.leaving {
		return // and takes more with it, see apply
	}
	s.leaving = true
	if m.part == nil {
		m.since = l.now
	}
	l.dropPart(m)
	if len(m.unsent) == 0 {
		l.slots.put(index, rings)
		l.watch(index, nothing)
	}
	l.gone = append(l.gone, l.slots.token(index))
}

// end notes that a connection is to be closed, once everything is answered; at once if it is
// broken.
func (l *loop) end(index uint32, broken bool) {
	s := &l.slots.all[index]
	if broken {
		l.drop(index)
		return
	}
	s.ending = true
	l.watch(index, nothing)
	l.gone = append(l.gone, l.slots.token(index))
}

// part parts with the connections that leave or end and to which nothing is owed any more.
func (l *loop) part() {
	for _, token := range l.gone {
		if index := l.slots.find(token); index != 0 {
			l.partWith(index)
		}
	}
	l.gone = l.gone[:0]
}

// partWith parts with a connection, if it leaves or ends and nothing is owed to it.
func (l *loop) partWith(index uint32) {
	s := &l.slots.all[index]
	if s.owed > 0 || s.more != nil && len(s.more.unsent) > 0 {
		return
	}
	switch {
	case s.ending:
		l.drop(index)
	case s.leaving:
		l.giveBack(index)
	}
}

// drop closes a connection and takes it off the counts (P4).
func (l *loop) drop(index uint32) {
	s := &l.slots.all[index]
	fd, peer := s.fd, s.peer
	l.slots.remove(index)
	_ = unix.Close(int(fd))
	l.counts.leave(peer, false)
}

// giveBack lets fasthttp have a connection.
func (l *loop) giveBack(index uint32) {
	s := &l.slots.all[index]
	back := returned{fd: int(s.fd), peer: s.peer, returns: s.returns}
	if m := s.more; m != nil {
		back.text, back.until = m.text, m.since+l.readTimeout
	}
	if s.served >= servedEnough {
		back.returns = 0
	} else if back.returns < maxReturns {
		back.returns++
	}
	l.watch(index, nothing)
	l.slots.remove(index)
	l.returned++
	l.returns.add(back)
}

// watch has the epoll report something else of a connection.
func (l *loop) watch(index uint32, what watched) {
	s := &l.slots.all[index]
	if s.watched == what {
		return
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case what == nothing:
		op = unix.EPOLL_CTL_DEL
	case s.watched == nothing:
		op = unix.EPOLL_CTL_ADD
	}
	s.watched = what
	token := l.slots.token(index)
	event := unix.EpollEvent{Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if event.Events = unix.EPOLLIN | unix.EPOLLRDHUP; what == room {
		event.Events = unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.epoll, op, int(s.fd), &event); err != nil {
		// Only for want of memory: the connection would be deaf.
		l.unwatched(err)
		_ = unix.Shutdown(int(s.fd), unix.SHUT_RDWR)
	}
}

// settle commits what was applied and answers it, until nothing is owed. It returns at once when
// another goroutine is at it.
func (l *loop) settle() {
	if l.away {
		return
	}
	l.away = true
	for len(l.owing) > 0 {
		lsn := l.owing[len(l.owing)-1].lsn
		l.commits.Add(1)
		l.committing.Store(max(1, int64(time.Since(l.began))))
		l.watching.keep()
		l.mu.Unlock()
		err := l.requests.Commit(lsn)
		l.mu.Lock()
		l.committing.Store(0)
		l.answer(lsn, err)
	}
	l.away = false
}

// collector answers what was submitted.
func (l *loop) collector() {
	var told []Told
	for {
		if told = l.later.Collect(told[:0]); len(told) == 0 {
			return
		}
		l.mu.Lock()
		l.now = time.Since(l.began)
		for i := range told {
			t := &told[i]
			l.same = append(l.same[:0], t.Answer)
			l.answerOne(t.Token, l.same, t.Err)
		}
		l.owed = max(0, l.owed-len(told)) // abort gave them up
		l.settled.Broadcast()
		l.part()
		l.mu.Unlock()
	}
}

// answer answers what was applied up to an LSN, whose commit has ended so. It may find other turns
// than those for which the commit was made: they were given up meanwhile.
func (l *loop) answer(lsn uint64, err error) {
	l.now = time.Since(l.began)
	done := 0
	for ; done < len(l.owing) && l.owing[done].lsn <= lsn; done++ {
		t := &l.owing[done]
		why := err
		if why != nil && t.lsn <= l.requests.Committed() {
			why = nil
		}
		l.owed -= len(t.answers)
		l.answerAll(t.answers, why)
		if len(l.spare) < maxSpare {
			l.spare = append(l.spare, t.answers[:0])
		}
	}
	if done > 0 {
		n := copy(l.owing, l.owing[done:])
		clear(l.owing[n:])
		l.owing = l.owing[:n]
		l.settled.Broadcast()
	}
	l.part()
}

// maxSpare is how many lists of answers, and parts of requests of up to partBytes, are kept for
// later turns.
const (
	maxSpare  = 64
	partBytes = 2 << 10
)

// answerAll writes answers, all those to one connection as one text. What it has read of one is
// taken in turn, so they are next to each other.
func (l *loop) answerAll(answers []owedAnswer, err error) {
	for i := 0; i < len(answers); {
		token := answers[i].token
		l.same = l.same[:0]
		for ; i < len(answers) && answers[i].token == token; i++ {
			l.same = append(l.same, answers[i].Answer)
		}
		l.answerOne(token, l.same, err)
	}
}

// answerOne writes answers to one connection.
func (l *loop) answerOne(token uint64, answers []Answer, err error) {
	text, last := l.requests.Append(l.texts[:0], answers, err)
	l.texts = text[:0]
	index := l.slots.find(token)
	if index == 0 {
		return // the client has gone
	}
	s := &l.slots.all[index]
	s.owed -= uint32(len(answers))
	if last || l.closing && !s.leaving {
		s.ending = true
	}
	if l.send(index, text) && (s.leaving || s.ending) {
		l.partWith(index)
	}
}

// send writes a text to a connection, and keeps what does not fit. False: the connection is gone.
func (l *loop) send(index uint32, text []byte) bool {
	s := &l.slots.all[index]
	if m := s.more; m != nil && len(m.unsent) > 0 {
		m.unsent = append(m.unsent, text...)
		return true
	}
	n, errno := write(s.fd, text)
	if errno != 0 && errno != syscall.EAGAIN && errno != syscall.EINTR {
		l.drop(index)
		return false
	}
	if n = max(n, 0); errno != 0 {
		n = 0
	}
	if n == len(text) {
		return true
	}
	m := l.slots.moreOf(index)
	m.unsent = bytes.Clone(text[n:])
	s.until = l.now + l.writeTimeout
	l.slots.put(index, blocked)
	l.watch(index, room)
	l.wakeBy(s.until) // the reader may have begun to wait when another goroutine answers
	return true
}

// sendMore writes what did not fit before.
func (l *loop) sendMore(index uint32) {
	s := &l.slots.all[index]
	m := s.more
	n, errno := write(s.fd, m.unsent)
	switch {
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
		return
	case errno != 0:
		l.drop(index)
		return
	}
	if m.unsent = m.unsent[n:]; len(m.unsent) > 0 {
		return
	}
	m.unsent = nil
	if s.leaving || s.ending {
		l.slots.put(index, rings)
		l.watch(index, nothing)
		l.partWith(index)
		return
	}
	l.watch(index, input)
	if m.part != nil {
		s.until = l.now + partTime
		l.slots.put(index, partial)
		return
	}
	l.rest(index)
}

// sweep parts with the connections that waited too long (P5).
func (l *loop) sweep() {
	l.sweepAt = l.now + sweepEvery
	for in := range rings {
		for {
			index := l.slots.oldest(in)
			if index == 0 || l.slots.all[index].until > l.now {
				break
			}
			s := &l.slots.all[index]
			switch {
			case in == partial:
				l.leave(index, s.more.part)
				l.part()
			case s.owed > 0 && in == known: // the log keeps it waiting, and not the other way round
				s.until = l.now + l.timeout
				l.slots.put(index, in)
			default:
				l.drop(index)
			}
		}
	}
}

// wind closes, while the loop is closing, the connections that have sent nothing and to which
// nothing is owed; n is how many were reported just now. One that has sent a part of a request is
// fasthttp's to wait for. True: all are closed, or gone.
func (l *loop) wind(n int) bool {
	if n > 0 {
		return false // what came in time is answered
	}
	for i := range l.slots.all {
		if l.slots.used == 0 {
			break
		}
		s, index := &l.slots.all[i], uint32(i)
		switch {
		case s.fd < 0 || s.leaving:
		case s.ring == partial:
			l.leave(index, s.more.part)
		default:
			s.ending = true
			l.partWith(index)
		}
	}
	l.part()
	if l.slots.used > 0 {
		return false
	}
	l.finish()
	return true
}

// finish closes the loop's descriptors.
func (l *loop) finish() {
	if l.closed {
		return
	}
	l.closed = true
	if l.later != nil {
		l.later.Close()
	}
	l.reader++ // none reads
	l.settled.Broadcast()
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wake)
	close(l.done)
}
