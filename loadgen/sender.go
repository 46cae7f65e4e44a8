package loadgen

import "fmt"

// sender gives the heartbeats of the ledger to connections. Single owner: the worker's goroutine.
type sender struct {
	*turn
	meter    *meter
	oracle   *oracle
	outage   *outages
	reactor  *reactor
	ledger   *ledger
	arrivals *arrivals

	requests []requestTemplate // by node
	batches  []batchTemplate   // by node
	gatherer gatherer

	links   []*link
	free    fifo[*link] // those that can take another request, each once
	dirty   []*link     // have something to write
	opening int         // links not connected so far
}

// add makes a link. The run begins when all are connected.
func (s *sender) add(l *link) {
	l.sender = s
	s.links = append(s.links, l)
	s.opening++
}

func (s *sender) open() {
	for _, l := range s.links {
		l.open()
	}
}

// offer puts a link that has room into the queue of free ones.
func (s *sender) offer(l *link) {
	switch {
	case l.state != linkUp || l.outstanding() >= s.o.Pipeline:
	case s.o.Closed && s.stage == loading:
		s.refill(l)
	default:
		s.await(l)
	}
}

// await puts a link among the free ones. In a closed loop the next retry takes it.
func (s *sender) await(l *link) {
	if !l.inFree {
		l.inFree = true
		s.free.push(l)
	}
}

func (s *sender) takeFree() *link {
	l := s.free.pop()
	l.inFree = false
	return l
}

// dispatch gives queued heartbeats to free links.
func (s *sender) dispatch() {
	if s.o.Batch > 1 {
		s.dispatchBatches()
		return
	}
	for s.ledger.queue.len() > 0 && s.free.len() > 0 {
		l := s.takeFree()
		if l.state != linkUp {
			continue
		}
		if b, ok := s.ledger.pop(); ok {
			l.send(b)
		}
		s.offer(l)
	}
}

// refillAll begins a closed loop.
func (s *sender) refillAll() {
	for _, l := range s.links {
		s.refill(l)
	}
}

// refill keeps a link of a closed loop full.
func (s *sender) refill(l *link) {
	if s.o.Batch > 1 {
		s.refillBatches(l)
		return
	}
	for l.state == linkUp && l.flights.len() < s.o.Pipeline {
		b, ok := s.nextClosed()
		if !ok {
			s.await(l)
			return
		}
		l.send(b)
	}
}

// nextClosed is the next heartbeat of a closed loop: a queued one, or one of an idle device.
func (s *sender) nextClosed() (b beat, ok bool) {
	for s.ledger.queue.len() > 0 {
		if b, ok = s.ledger.pop(); ok {
			return b, true
		}
	}
	return s.arrivals.idle()
}

// dispatchBatches gives queued heartbeats to free links.
func (s *sender) dispatchBatches() {
	for s.now >= s.batchDue() {
		l := s.takeFree()
		if l.state != linkUp {
			continue
		}
		l.sendBatch(s.gatherer.queued())
		s.offer(l)
	}
}

// batchDue is when the queue is to be sent; never, when there is nothing to send or no link.
func (s *sender) batchDue() int64 {
	switch n := s.ledger.queue.len(); {
	case n == 0 || s.o.Batch == 1 || s.free.len() == 0:
		return never
	case n >= s.o.Batch || s.stage != loading:
		return s.now
	}
	return s.ledger.queue.front().due + batchWait
}

// refillBatches keeps a link of a closed loop full.
func (s *sender) refillBatches(l *link) {
	for l.state == linkUp && l.batches.len() < s.o.Pipeline {
		beats := s.gatherer.closed()
		if len(beats) == 0 {
			s.await(l)
			return
		}
		l.sendBatch(beats)
	}
}

// retried refills a free link when a heartbeat of a closed loop is queued again.
func (s *sender) retried() {
	if s.o.Closed && s.free.len() > 0 {
		s.refill(s.takeFree())
	}
}

// touch has the link written to at the end of the turn.
func (s *sender) touch(l *link) {
	if !l.dirty {
		l.dirty = true
		s.dirty = append(s.dirty, l)
	}
}

// flush writes what this turn made.
func (s *sender) flush() {
	for _, l := range s.dirty {
		l.dirty = false
		l.flush()
	}
	s.dirty = s.dirty[:0]
}

// checkTimeouts breaks connections that were not answered since limit.
func (s *sender) checkTimeouts(limit int64) {
	for _, l := range s.links {
		switch {
		case l.state == linkConnecting && l.since < limit:
			l.failed(fmt.Errorf("no connection after %v", s.o.Timeout))
		case l.state == linkUp && l.flights.len() > 0 && l.flights.front().at < limit:
			s.meter.count(timeouts, 1)
			l.broken()
		}
	}
}

// close gives up on heartbeats that are on their way and closes the links for good.
func (s *sender) close() {
	for _, l := range s.links {
		for i := range l.flights.len() {
			if f := l.flights.at(i); f.kind != repeat {
				s.meter.abandon(f.due)
			}
		}
		l.close()
		l.state = linkGone
	}
}
