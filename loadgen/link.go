package loadgen

import (
	"fmt"
	"net/netip"
)

// link is one connection that carries heartbeats of any devices of its worker, like a gateway's. It
// holds up to Options.Pipeline requests at a time.
type link struct {
	sender *sender
	node   int // which of the targets
	source netip.Addr
	sock   socket
	id     socketID
	state  linkState
	since  int64 // of the state
	tries  int   // connects that failed in a row

	out      []byte // requests to write
	wrote    int    // of out
	in       []byte // the start of an answer
	flights  fifo[flight]
	batches  fifo[int] // with Options.Batch: how many flights each outstanding request carries
	inFree   bool      // in sender.free
	dirty    bool      // in sender.dirty
	blocked  bool      // the socket is full; waiting for room
	everOpen bool
}

type linkState uint8

const (
	linkDown linkState = iota // a timer will connect it
	linkConnecting
	linkUp
	linkGone // the load is over
)

func (l *link) open() {
	s := l.sender
	if l.state == linkGone {
		return
	}
	sock, id, err := s.reactor.open(l, l.node, l.source, 0)
	if err != nil {
		l.failed(fmt.Errorf("loadgen: connect: %w", err))
		return
	}
	l.sock, l.id, l.state, l.since = sock, id, linkConnecting, s.now
}

// failed handles a connect that did not succeed. Before the load begins it ends the run.
func (l *link) failed(err error) {
	s := l.sender
	l.close()
	if s.stage == connecting {
		s.run.fail(fmt.Errorf("%s: %w", s.reactor.targets[l.node].host, err))
		return
	}
	s.meter.count(refused, 1)
	s.outage.begin(s.now)
	l.tries++
	s.after(s.backoff(l.tries), l.open)
}

func (l *link) ready(in, out bool) {
	if l.state == linkConnecting {
		if err := l.sock.connected(); err != nil {
			l.failed(err)
		} else if out {
			l.connected()
		}
		return
	}
	if out && l.blocked {
		l.blocked = false
		l.watch()
		l.flush()
	}
	if in && l.state == linkUp {
		l.read()
	}
}

func (l *link) read() {
	s := l.sender
	n, err := l.sock.read(s.reactor.input)
	s.readClock()
	switch {
	case err == errAgain:
	case err != nil || n == 0:
		l.broken()
	default:
		l.receive(s.reactor.input[:n])
	}
}

func (l *link) connected() {
	s := l.sender
	l.state, l.since, l.tries = linkUp, s.now, 0
	if !l.everOpen {
		l.everOpen = true
		if s.opening--; s.opening == 0 {
			s.run.connect.Add(1)
		}
	}
	l.watch()
	s.offer(l)
}

func (l *link) watch() {
	if err := l.sock.watch(true, l.blocked); err != nil {
		l.sender.run.fail(fmt.Errorf("loadgen: %w", err))
	}
}

// send appends the request of b to the link's output. Its device must not be busy but for b itself.
func (l *link) send(b beat) {
	s := l.sender
	d, f := s.ledger.launch(b)
	l.out = s.requests[l.node].stamp(l.out, &d.userID, &d.id, s.sentAtMS(), s.run.seq(f.number))
	l.flights.push(f)
	s.meter.count(written, 1)
	s.touch(l)
}

// sendBatch appends one request with some heartbeats to the link's output.
func (l *link) sendBatch(beats []beat) {
	if len(beats) == 0 {
		return
	}
	s := l.sender
	batch := &s.batches[l.node]
	l.out = batch.begin(l.out, len(beats))
	for _, b := range beats {
		d, f := s.ledger.launch(b)
		l.out = batch.line.stamp(l.out, &d.userID, &d.id, s.sentAtMS(), s.run.seq(f.number))
		l.flights.push(f)
	}
	l.batches.push(len(beats))
	s.meter.count(written, 1)
	s.touch(l)
	if len(l.out)-l.wrote >= flushBytes {
		// else the server would get the output of all links at once, at the end of the turn
		l.flush()
	}
}

// outstanding is how many requests wait for their answer.
func (l *link) outstanding() int {
	if l.sender.o.Batch > 1 {
		return l.batches.len()
	}
	return l.flights.len()
}

func (l *link) flush() {
	if l.state != linkUp || l.blocked {
		return
	}
	for l.wrote < len(l.out) {
		n, err := l.sock.write(l.out[l.wrote:])
		if err == errAgain {
			l.blocked = true
			l.watch()
			return
		}
		if err != nil {
			l.broken()
			return
		}
		l.wrote += n
	}
	l.out, l.wrote = l.out[:0], 0
}

// receive takes what was read and handles every whole answer in it.
func (l *link) receive(input []byte) {
	if len(l.in) > 0 {
		l.in = append(l.in, input...)
		input = l.in
	}
	for len(input) > 0 {
		r, n, err := parseResponse(input)
		if err != nil || n > 0 && l.flights.len() == 0 {
			l.sender.oracle.protocol("an answer that is no HTTP, or to no request: %.80q", input)
			l.broken()
			return
		}
		if n == 0 {
			break
		}
		if l.sender.o.Batch > 1 {
			l.batchAnswered(r)
		} else {
			l.answered(r)
		}
		input = input[n:]
		if r.last {
			l.broken()
			return
		}
	}
	l.in = append(l.in[:0], input...)
	l.sender.offer(l)
}

// answered takes the answer to one heartbeat.
func (l *link) answered(r response) {
	a := answer{status: r.status}
	if r.status == 409 {
		a.lastSeq, a.hasSeq = lastSeq(r.body)
	}
	if !l.sender.ledger.answered(l.flights.pop(), a) {
		l.sender.run.fail(fmt.Errorf("loadgen: the server answers a heartbeat with %d: %.200s",
			r.status, r.body))
	}
}

// batchAnswered decides what an answer means for the heartbeats of its batch.
func (l *link) batchAnswered(r response) {
	s := l.sender
	n := l.batches.pop()
	switch {
	case r.status == 200 && allAccepted(r.body, n), r.status == 204 && s.o.NoOracle:
		l.acceptLines(n)
	case r.status == 200:
		lines, err := readLines(r.body, n)
		if err != nil {
			s.oracle.protocol("an answer to %d heartbeats: %v: %.200q", n, err, r.body)
		}
		for _, a := range lines {
			s.ledger.answered(l.flights.pop(), a)
		}
	case r.status == 503 || r.status == 429:
		for range n {
			s.ledger.answered(l.flights.pop(), answer{status: r.status})
		}
	default:
		s.run.fail(fmt.Errorf("loadgen: the server answers a batch with %d: %.200s", r.status,
			r.body))
	}
}

// acceptLines accepts the next n heartbeats of the link. It counts and records once for those of
// one due time.
func (l *link) acceptLines(n int) {
	s := l.sender
	s.outage.end(s.now)
	for i := range n { // met in one go, the devices' cache misses overlap
		s.ledger.load(l.flights.at(i).device)
	}
	due, run := int64(never), int64(0)
	for range n {
		f := l.flights.pop()
		if f.kind == repeat {
			s.ledger.answered(f, answer{status: 204})
			continue
		}
		if f.due != due {
			s.ledger.accept(due, run)
			due, run = f.due, 0
		}
		run++
		s.ledger.acknowledge(f)
	}
	s.ledger.accept(due, run)
}

// broken ends a connection. Its heartbeats are sent again, since the server may have accepted them
// or not.
func (l *link) broken() {
	s := l.sender
	if l.flights.len() > 0 {
		s.meter.count(cuts, 1)
		s.outage.begin(s.now)
	}
	l.close()
	for l.flights.len() > 0 {
		s.ledger.retry(l.flights.pop(), s.backoff(0))
	}
	s.after(s.backoff(0), l.open)
}

func (l *link) close() {
	if l.sock != nil {
		l.sender.reactor.release(l.sock, l.id, false)
	}
	l.sock, l.state, l.since = nil, linkDown, l.sender.now
	l.out, l.wrote, l.in, l.blocked = l.out[:0], 0, l.in[:0], false
	l.batches = fifo[int]{}
}

func (l *link) drop() { l.close() }
