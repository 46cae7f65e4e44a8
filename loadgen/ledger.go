package loadgen

// ledger keeps what became of each heartbeat that fell due: it is queued for a connection, waits
// for its device's last one, is on its way, or waits for its next try. A device has one on its way
// at most (G3). Single owner: the worker's goroutine.
type ledger struct {
	*turn
	crowd   *crowd
	meter   *meter
	oracle  *oracle
	outage  *outages
	retried func() // a heartbeat is queued again

	queue    fifo[beat]         // due and without a connection
	waiting  map[uint32][]int64 // due while the device's last heartbeat is on its way
	retrying map[uint32]int64   // due time of those that wait for their next try, by device
	busy     int                // devices with a heartbeat on its way or to be sent again
	loaded   uint32             // of no meaning: see load
}

// beat is one heartbeat that fell due.
type beat struct {
	device uint32
	due    int64
	kind   beatKind
}

type beatKind uint8

const (
	fresh  beatKind = iota
	again           // the last try was refused or its answer is unknown; the device is busy with it
	repeat          // of an accepted one, on purpose
)

// flight is a heartbeat that was written and not answered.
type flight struct {
	beat
	number uint32
	at     int64 // written
}

func newLedger(t *turn, c *crowd, m *meter, o *oracle, u *outages) ledger {
	return ledger{turn: t, crowd: c, meter: m, oracle: o, outage: u,
		waiting: map[uint32][]int64{}, retrying: map[uint32]int64{}}
}

// empty reports whether every heartbeat is answered.
func (g *ledger) empty() bool { return g.queue.len() == 0 && len(g.waiting) == 0 && g.busy == 0 }

// pop takes the next queued heartbeat. ok is false when its device is busy: a fresh one waits for
// its turn then, and a repeat is dropped.
func (g *ledger) pop() (b beat, ok bool) {
	b = g.queue.pop()
	if !g.crowd.devices[b.device].busy || b.kind == again {
		return b, true
	}
	if b.kind == fresh {
		g.waiting[b.device] = append(g.waiting[b.device], b.due)
	}
	return b, false
}

// hold makes the device busy.
func (g *ledger) hold(d *device) {
	if !d.busy {
		d.busy = true
		g.busy++
	}
}

// load brings a device into the caches.
func (g *ledger) load(device uint32) { g.loaded ^= g.crowd.devices[device].acked }

// launch notes that b is written now, and with which number.
func (g *ledger) launch(b beat) (d *device, f flight) {
	d = &g.crowd.devices[b.device]
	number := d.acked + 1
	if b.kind == repeat {
		number = d.acked
	}
	if number > d.sent {
		d.sent = number
		*g.crowd.momentOf(d, number) = moment{b.due, g.now}
	}
	g.hold(d)
	if b.kind == again {
		g.meter.count(retries, 1)
	}
	return d, flight{b, number, g.now}
}

// answer is what the server says of one heartbeat.
type answer struct {
	status  int // 204: accepted; 0: not known
	lastSeq int64
	hasSeq  bool // lastSeq is the server's last_seq
}

// answered decides what an answer means for the device. What is neither accepted nor final is sent
// again with its number and its due time. False: no server should answer so.
func (g *ledger) answered(f flight, a answer) bool {
	switch {
	case a.status == 204 && f.kind == repeat:
		g.oracle.acceptedTwice(f)
		g.settle(f)
	case a.status == 204:
		g.outage.end(g.now)
		g.accept(f.due, 1)
		g.acknowledge(f)
	case a.status == 409:
		g.conflict(f, a)
	case a.status == 503:
		g.meter.count(refusals, 1)
		g.outage.begin(g.now)
		g.retry(f, g.backoff(3))
	case a.status == 429:
		g.meter.count(limited, 1)
		g.retry(f, g.backoff(5))
	case a.status == 0: // of a batch whose answer leaves the line open
		g.retry(f, g.backoff(0))
	default:
		return false
	}
	return true
}

func (g *ledger) conflict(f flight, a answer) {
	g.meter.count(conflicts, 1)
	if !g.oracle.conflict(f, a) {
		g.settle(f)
		return
	}
	g.accept(f.due, 1)
	g.acknowledge(f)
}

// accept counts n accepted heartbeats that fell due at the same time.
func (g *ledger) accept(due, n int64) {
	if n > 0 {
		g.meter.count(accepted, n)
		g.meter.recordMany(toAnswer, due, n)
	}
}

// acknowledge lets the device of an accepted heartbeat go on.
func (g *ledger) acknowledge(f flight) {
	d := &g.crowd.devices[f.device]
	d.acked = max(d.acked, f.number)
	if f.kind == again {
		g.outage.over(f.due, g.now)
	}
	g.settle(f)
	if g.o.RepeatShare > 0 && g.stage == loading && g.rng.Float64() < g.o.RepeatShare {
		g.queue.push(beat{f.device, g.now, repeat})
	}
}

// settle lets the device send its next heartbeat.
func (g *ledger) settle(f flight) {
	g.crowd.devices[f.device].busy = false
	g.busy--
	if len(g.waiting) == 0 {
		return
	}
	if dues := g.waiting[f.device]; len(dues) > 0 {
		g.queue.unshift(beat{f.device, dues[0], fresh})
		if len(dues) == 1 {
			delete(g.waiting, f.device)
		} else {
			g.waiting[f.device] = dues[1:]
		}
	}
}

// retry sends a heartbeat again after a while. The device stays busy until then. A repeat is given
// up: whether it was answered does not matter.
func (g *ledger) retry(f flight, delay int64) {
	if f.kind == repeat {
		g.settle(f)
		return
	}
	f.kind = again
	g.retrying[f.device] = f.due
	g.after(delay, func() {
		delete(g.retrying, f.device)
		if g.stage <= draining {
			g.queue.unshift(f.beat)
			g.retried()
		}
	})
}

// abandon gives up on what is not on its way.
func (g *ledger) abandon() {
	for ; g.queue.len() > 0; g.queue.pop() {
		if b := g.queue.front(); b.kind != repeat {
			g.meter.abandon(b.due)
		}
	}
	for _, dues := range g.waiting {
		for _, due := range dues {
			g.meter.abandon(due)
		}
	}
	clear(g.waiting)
	for _, due := range g.retrying {
		g.meter.abandon(due)
	}
	clear(g.retrying)
}
