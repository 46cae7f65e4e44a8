package loadgen

import (
	"fmt"
	"net/netip"
	"time"
)

// link is one connection that carries heartbeats of any devices of its worker, like a gateway's. It holds up to
// Options.Pipeline of them at a time; a device has never more than one on its way, over all links, so that its heartbeats
// cannot overtake each other.
type link struct {
	w      *worker
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
	batches  fifo[int] // with Options.Batch: how many of the flights each outstanding request carries
	inFree   bool      // in worker.free
	dirty    bool      // in worker.dirty
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

// flight is a heartbeat that was written and not answered.
type flight struct {
	beat
	number uint32
	at     int64 // written
}

func (l *link) open() {
	w := l.w
	if l.state == linkGone {
		return
	}
	s, id, err := w.connect(l, l.source, 0)
	if err != nil {
		l.failed(fmt.Errorf("loadgen: connect: %w", err))
		return
	}
	l.sock, l.id, l.state, l.since = s, id, linkConnecting, w.now
}

// failed handles a connect that did not succeed. Before the load begins it ends the run.
func (l *link) failed(err error) {
	w := l.w
	l.close()
	if w.stage == connecting {
		w.run.fail(fmt.Errorf("%s: %w", w.o.Target, err))
		return
	}
	w.count(refused, 1)
	w.outage.begin(w.now)
	l.tries++
	w.timers.after(w.now+w.backoff(l.tries), l.open)
}

// backoff is 20 ms doubling to half a second, with a random half.
func (w *worker) backoff(tries int) int64 {
	most := min(int64(20*time.Millisecond)<<min(tries, 10), int64(500*time.Millisecond))
	return most/2 + w.rng.Int64N(most/2)
}

func (l *link) ready(in, out bool) {
	w := l.w
	if l.state == linkConnecting {
		if err := l.sock.connected(); err != nil {
			l.failed(err)
			return
		}
		if !out {
			return
		}
		l.connected()
		return
	}
	if out && l.blocked {
		l.blocked = false
		l.watch()
		l.flush()
	}
	if in && l.state == linkUp {
		n, err := l.sock.read(w.input)
		w.now = w.run.clock()
		switch {
		case err == errAgain:
		case err != nil || n == 0:
			l.broken()
		default:
			l.receive(w.input[:n])
		}
	}
}

func (l *link) connected() {
	w := l.w
	l.state, l.since, l.tries = linkUp, w.now, 0
	if !l.everOpen {
		l.everOpen = true
		if w.opening--; w.opening == 0 {
			w.run.connect.Add(1)
		}
	}
	l.watch()
	w.offer(l)
}

func (l *link) watch() {
	if err := l.sock.watch(true, l.blocked); err != nil {
		l.w.run.fail(fmt.Errorf("loadgen: %w", err))
	}
}

// offer puts a link that has room into the queue of free ones.
func (w *worker) offer(l *link) {
	switch {
	case l.state != linkUp || l.outstanding() >= w.o.Pipeline:
	case w.o.Closed && w.stage == loading:
		w.refill(l)
	case !l.inFree:
		l.inFree = true
		w.free.push(l)
	}
}

// dispatch gives queued heartbeats to free links.
func (w *worker) dispatch() {
	if w.o.Batch > 1 {
		w.dispatchBatches()
		return
	}
	for w.queue.len() > 0 && w.free.len() > 0 {
		l := w.free.pop()
		l.inFree = false
		if l.state != linkUp {
			continue
		}
		b := w.queue.pop()
		if d := &w.devices[b.device]; d.busy && b.kind != again {
			if b.kind == fresh {
				w.waiting[b.device] = append(w.waiting[b.device], b.due)
			}
		} else {
			l.send(b)
		}
		w.offer(l)
	}
}

// refill keeps a link of a closed loop full.
func (w *worker) refill(l *link) {
	if w.o.Batch > 1 {
		w.refillBatches(l)
		return
	}
	for l.state == linkUp && l.flights.len() < w.o.Pipeline {
		b, ok := w.nextClosed()
		if !ok {
			w.await(l)
			return
		}
		l.send(b)
	}
}

// nextClosed is the next heartbeat of a closed loop: one that is to be sent again, or one of a device that is not busy.
func (w *worker) nextClosed() (b beat, ok bool) {
	for w.queue.len() > 0 {
		if b = w.queue.pop(); b.kind != repeat || !w.devices[b.device].busy {
			return b, true
		}
	}
	for range 64 {
		if d := w.pick.device(w); w.devices[d].idle(w.now) {
			w.count(offered, 1)
			return beat{device: d, due: w.now}, true
		}
	}
	return b, false
}

// await puts a link that found nothing to send among the free ones: the next retry that falls due wakes it.
func (w *worker) await(l *link) {
	if !l.inFree {
		l.inFree = true
		w.free.push(l)
	}
}

// send appends the request of b to the link's output. Its device must not be busy but for b itself.
func (l *link) send(b beat) {
	w := l.w
	d, number := w.launch(b)
	l.out = w.request.stamp(l.out, &d.userID, &d.id, w.run.sentMS+w.now/1e6, w.run.seqBase+int64(number))
	l.flights.push(flight{b, number, w.now})
	w.count(written, 1)
	l.touch()
}

// launch notes that b is written now, and with which number.
func (w *worker) launch(b beat) (d *device, number uint32) {
	d = &w.devices[b.device]
	number = d.acked + 1
	if b.kind == repeat {
		number = d.acked
	}
	if number > d.sent {
		d.sent = number
		w.moments[d.ring+number&d.mask] = moment{b.due, w.now}
	}
	if !d.busy {
		d.busy = true
		w.busy++
	}
	if b.kind == again {
		w.count(retries, 1)
	}
	return d, number
}

// touch has the link written to at the end of the turn.
func (l *link) touch() {
	if !l.dirty {
		l.dirty = true
		l.w.dirty = append(l.w.dirty, l)
	}
}

// flush writes what this turn made.
func (w *worker) flush() {
	for _, l := range w.dirty {
		l.dirty = false
		l.flush()
	}
	w.dirty = w.dirty[:0]
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
		a, n, err := parseAnswer(input)
		if err != nil || n > 0 && l.flights.len() == 0 {
			l.w.oracle.protocol("an answer that is no HTTP or that nothing asked for: %.80q", input)
			l.broken()
			return
		}
		if n == 0 {
			break
		}
		if l.w.o.Batch > 1 {
			l.batchAnswered(a)
		} else {
			l.answered(a)
		}
		input = input[n:]
		if a.last {
			l.broken()
			return
		}
	}
	l.in = append(l.in[:0], input...)
	l.w.offer(l)
}

// answered takes the answer to one heartbeat.
func (l *link) answered(a answer) {
	line := lineAnswer{status: a.status}
	if a.status == 409 {
		line.last, line.told = lastSeq(a.body)
	}
	f := l.flights.pop()
	if !l.lineAnswered(f, line) {
		l.w.run.fail(fmt.Errorf("loadgen: the server answers a heartbeat with %d: %.200s", a.status, a.body))
	}
}

// lineAnswered decides what an answer means for the device. What is not accepted and not final is sent again with its number
// and its due time. False: no server should answer so.
func (l *link) lineAnswered(f flight, a lineAnswer) bool {
	w := l.w
	switch {
	case a.status == 204 && f.kind == repeat:
		w.oracle.acceptedTwice(w, f)
		w.settle(f)
	case a.status == 204:
		w.outage.end(w.now)
		w.accept(f)
	case a.status == 409:
		w.count(conflicts, 1)
		if w.oracle.conflict(w, f, a) {
			w.accept(f)
		} else {
			w.settle(f)
		}
	case a.status == 503:
		w.count(refusals, 1)
		w.outage.begin(w.now)
		w.retry(f, w.backoff(3))
	case a.status == 429:
		w.count(limited, 1)
		w.retry(f, w.backoff(5))
	case a.status == 0: // of a batch whose answer does not tell
		w.retry(f, w.backoff(0))
	default:
		return false
	}
	return true
}

// accept notes that a heartbeat is known to be accepted.
func (w *worker) accept(f flight) {
	w.acceptedAt(f.due, 1)
	w.acknowledge(f)
}

// acceptedAt counts n accepted heartbeats that fell due at the same time.
func (w *worker) acceptedAt(due, n int64) {
	if n == 0 {
		return
	}
	w.count(accepted, n)
	w.phaseTally(due).recordMany(toAnswer, w.now-due, n)
	w.second.recordMany(toAnswer, w.now-due, n)
}

// acknowledge lets the device of an accepted heartbeat go on.
func (w *worker) acknowledge(f flight) {
	d := &w.devices[f.device]
	d.acked = max(d.acked, f.number)
	w.settle(f)
	if w.o.RepeatShare > 0 && w.stage == loading && w.rng.Float64() < w.o.RepeatShare {
		w.queue.push(beat{f.device, w.now, repeat})
	}
}

// settle lets the device send its next heartbeat.
func (w *worker) settle(f flight) {
	w.devices[f.device].busy = false
	w.busy--
	if len(w.waiting) == 0 {
		return
	}
	if dues := w.waiting[f.device]; len(dues) > 0 {
		w.queue.unshift(beat{f.device, dues[0], fresh})
		if len(dues) == 1 {
			delete(w.waiting, f.device)
		} else {
			w.waiting[f.device] = dues[1:]
		}
	}
}

// retry sends a heartbeat again after a while. The device stays busy until then. A repeat is given up: whether it was
// answered does not matter.
func (w *worker) retry(f flight, delay int64) {
	if f.kind == repeat {
		w.settle(f)
		return
	}
	f.kind = again
	w.retrying[f.device] = f.due
	w.timers.after(w.now+delay, func() {
		delete(w.retrying, f.device)
		if w.stage > draining {
			return
		}
		w.queue.unshift(f.beat)
		if w.o.Closed && w.free.len() > 0 {
			l := w.free.pop()
			l.inFree = false
			w.refill(l)
		}
	})
}

// broken ends a connection; its heartbeats are sent again, since nobody knows whether they were accepted.
func (l *link) broken() {
	w := l.w
	if l.flights.len() > 0 {
		w.count(cuts, 1)
		w.outage.begin(w.now)
	}
	l.close()
	for l.flights.len() > 0 {
		w.retry(l.flights.pop(), w.backoff(0))
	}
	w.timers.after(w.now+w.backoff(0), l.open)
}

func (l *link) close() {
	if l.sock != nil {
		l.w.disconnect(l.sock, l.id, false)
	}
	l.sock, l.state, l.since = nil, linkDown, l.w.now
	l.out, l.wrote, l.in, l.blocked = l.out[:0], 0, l.in[:0], false
	l.batches = fifo[int]{}
}

func (l *link) drop() { l.close() }

// abandon gives up on heartbeats that were not answered in time after the load. They count with the latency that they have
// by now: leaving them out would leave out the slowest.
func (w *worker) abandon() {
	give := func(due int64) {
		t := w.phaseTally(due)
		t.n[abandoned]++
		t.record(toAnswer, w.now-due)
	}
	for ; w.queue.len() > 0; w.queue.pop() {
		if b := w.queue.front(); b.kind != repeat {
			give(b.due)
		}
	}
	for _, dues := range w.waiting {
		for _, due := range dues {
			give(due)
		}
	}
	clear(w.waiting)
	for _, due := range w.retrying {
		give(due)
	}
	clear(w.retrying)
	for _, l := range w.links {
		for i := range l.flights.len() {
			if f := l.flights.at(i); f.kind != repeat {
				give(f.due)
			}
		}
		l.close()
		l.state = linkGone
	}
}

// checkTimeouts breaks connections whose server does not answer.
func (w *worker) checkTimeouts() {
	limit := w.now - int64(w.o.Timeout)
	for _, l := range w.links {
		switch {
		case l.state == linkConnecting && l.since < limit:
			l.failed(fmt.Errorf("no connection after %v", w.o.Timeout))
		case l.state == linkUp && l.flights.len() > 0 && l.flights.front().at < limit:
			w.count(timeouts, 1)
			l.broken()
		}
	}
	w.checkWatches(limit)
}
