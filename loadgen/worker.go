package loadgen

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// worker is one event loop with a share of the users, all of their devices and streams, some connections, and a schedule.
// Nothing of it is shared: a device's heartbeats, their answers and its frames are all seen by one goroutine, so the oracle
// needs no lock and no order between processors. What comes from outside comes through atomics (orders) and leaves through
// a channel (interval).
//
// One turn of the loop: put what is due into the queue; run timers; give the queue to free connections; write; wait until
// the next thing is due; serve at most turnEvents sockets.
type worker struct {
	index   int
	o       *Options
	run     *orders
	net     sockets
	addr    netip.AddrPort
	request requestTemplate
	batch   batchTemplate
	host    string
	plot    *scenario
	suffix  []byte // of frames
	scratch []byte
	rng     *rand.Rand

	users   []user
	devices []device
	moments []moment

	phases   []phase
	now      int64 // of the run's clock; read once a turn and again after each read
	schedule *pacer
	nextDue  int64 // math.MaxInt64: nothing more
	pick     picker
	queue    fifo[beat]         // due and without a connection
	retrying map[uint32]int64   // due time of those that wait for their next try, by device
	waiting  map[uint32][]int64 // due while the device's last heartbeat is outstanding

	links    []*link     // heartbeat connections
	free     fifo[*link] // those that can take another heartbeat, each once
	dirty    []*link     // have something to write
	gathered []beat      // scratch: the batch that is being made
	picked   []uint32    // scratch: devices that it may name
	touched  uint32      // of no meaning: see gatherClosed
	opening  int         // links not connected so far
	busy     int         // devices with a heartbeat on its way or to be sent again

	watches   []*watch     // streams
	toOpen    fifo[*watch] // streams that are due to connect
	checks    checks
	down      int // streams that were not up at the end
	unchecked int // users whose final snapshot did not come

	places  []place // of sockets, by socketID
	vacant  []uint32
	ready   []readiness
	timers  timers
	input   []byte // what is read from any socket
	scanned int64  // when timeouts were last looked for
	stage   stage
	since   int64 // when the stage began

	tallies []tally // by phase
	second  tally   // since the last hand-over
	handed  int64
	oracle  oracle
	outage  outages
}

// orders is how the run and its workers talk. Written by the run, read by workers, or the other way round, as each says.
type orders struct {
	epoch   time.Time    // of the run's clock
	startAt atomic.Int64 // the run: when the schedule begins; 0: not yet
	stopAt  atomic.Int64 // the run: when the load ends
	connect atomic.Int32 // workers: how many have all their connections
	failure atomic.Pointer[error]
	seconds chan handover
	seqBase int64 // seq of heartbeat number 0
	sentMS  int64 // unix milliseconds of the epoch
}

func (r *orders) clock() int64 { return int64(time.Since(r.epoch)) }

// fail ends the run; the first error is the one that is told.
func (r *orders) fail(err error) { r.failure.CompareAndSwap(nil, &err) }

// handover is a second's tally of a worker.
type handover struct {
	worker  int
	at      int64
	tally   *tally
	streams int
	backlog int
	stage   stage
}

type stage int

const (
	connecting stage = iota // until startAt
	loading                 // the schedule runs
	draining                // answers that are still owed; the backlog goes out
	settling                // nothing is sent; frames that are still owed
	verifying               // every user's snapshot against what was acknowledged
	finished
)

var stageNames = [...]string{"connecting", "loading", "draining", "settling", "verifying", "finished"}

// beat is one heartbeat that fell due.
type beat struct {
	device uint32
	due    int64
	kind   beatKind
}

type beatKind uint8

const (
	fresh  beatKind = iota
	again           // the answer to the last try is unknown or was a refusal; the device is held busy for it
	repeat          // of an accepted one, on purpose
)

// place is a slot for a socket; used counts its tenants.
type place struct {
	used   uint32
	tenant tenant
}

// tenant is the owner of a socket.
type tenant interface {
	ready(in, out bool)
}

func (w *worker) loop() {
	defer w.net.close()
	for w.stage != finished && w.run.failure.Load() == nil {
		w.now = w.run.clock()
		w.advance()
		w.fire()
		w.timers.runDue(w.now)
		w.dispatch()
		w.openStreams()
		w.flush()
		w.housekeep()
		if err := w.serve(); err != nil {
			w.run.fail(fmt.Errorf("loadgen: wait for sockets: %w", err))
		}
	}
	for _, p := range w.places {
		if p.tenant != nil {
			p.tenant.(interface{ drop() }).drop()
		}
	}
	w.handOver()
}

// advance moves to the next stage when it is time.
func (w *worker) advance() {
	switch w.stage {
	case connecting:
		if at := w.run.startAt.Load(); at > 0 {
			w.enter(loading)
			w.begin(at)
		}
	case loading:
		if w.now >= w.run.stopAt.Load() {
			w.nextDue = never
			w.endLoad()
			w.enter(draining)
		}
	case draining:
		if w.answered() || w.now-w.since > int64(w.o.Patience+w.outage.allowance(w)) {
			w.abandon()
			w.enter(settling)
		}
	case settling:
		if w.now-w.scanned < int64(20*time.Millisecond) {
			return
		}
		w.scanned = w.now
		if w.settled() || w.now > w.settleLimit() {
			w.judgeStreams()
			w.enter(verifying)
			w.beginVerify()
		}
	case verifying:
		if w.verified() {
			w.enter(finished)
		}
	}
}

func (w *worker) enter(s stage) {
	w.stage, w.since = s, w.now
}

// begin starts the schedule at an instant of the run's clock.
func (w *worker) begin(at int64) {
	var segments []segment
	share := w.pick.share()
	for i := range w.phases {
		p := &w.phases[i]
		p.start += at
		if p.end != never {
			p.end += at
		}
		if p.factor > 0 {
			segments = append(segments, segment{p.start, p.end, w.o.Rate * p.factor * share})
		}
	}
	w.planEvents(at)
	if w.o.Closed {
		w.nextDue = never
		for _, l := range w.links {
			w.refill(l)
		}
		return
	}
	var poisson *rand.Rand
	if w.o.Arrivals == "poisson" {
		poisson = w.rng
	}
	w.schedule = newPacer(segments, float64(w.index)/float64(w.o.Workers), poisson)
	w.takeDue()
}

func (w *worker) takeDue() {
	due, ok := w.schedule.next()
	if !ok {
		due = never
	}
	w.nextDue = due
}

// fire queues what is due.
func (w *worker) fire() {
	if w.stage != loading {
		return
	}
	for w.nextDue <= w.now {
		due := w.nextDue
		w.takeDue()
		d := w.pick.device(w)
		if due >= w.devices[d].silent {
			continue
		}
		t := w.phaseTally(due)
		t.n[offered]++
		t.record(ownLag, w.now-due)
		w.second.n[offered]++
		w.second.record(ownLag, w.now-due)
		w.queue.push(beat{device: d, due: due})
	}
}

// serve waits for sockets until the next thing is due.
func (w *worker) serve() (err error) {
	until := min(w.nextDue, w.timers.next(), w.now+int64(20*time.Millisecond))
	if w.o.Batch > 1 && w.free.len() > 0 {
		until = min(until, w.batchDue())
	}
	if w.toOpen.len() > 0 || w.stage == verifying {
		until = min(until, w.now+int64(time.Millisecond))
	}
	w.ready, err = w.net.wait(time.Duration(until-w.run.clock()), w.ready[:0])
	w.now = w.run.clock()
	for _, r := range w.ready {
		p := &w.places[uint32(r.id)]
		if p.tenant != nil && p.used == uint32(r.id>>32) {
			p.tenant.ready(r.in, r.out)
		}
		if w.nextDue <= w.now {
			w.fire()
			w.dispatch()
			w.flush()
		}
	}
	return err
}

// connect opens a socket for t. The caller keeps id to give the place back.
func (w *worker) connect(t tenant, source netip.Addr, receiveBuffer int) (s socket, id socketID, err error) {
	if len(w.vacant) == 0 {
		w.vacant = append(w.vacant, uint32(len(w.places)))
		w.places = append(w.places, place{})
	}
	at := w.vacant[len(w.vacant)-1]
	p := &w.places[at]
	id = socketID(at) | socketID(p.used)<<32
	s, err = w.net.open(id, w.addr, source, receiveBuffer)
	if err == nil {
		w.vacant = w.vacant[:len(w.vacant)-1]
		p.tenant = t
	}
	return s, id, err
}

// disconnect closes a socket and frees its place.
func (w *worker) disconnect(s socket, id socketID, abort bool) {
	s.close(abort)
	p := &w.places[uint32(id)]
	p.tenant = nil
	p.used++
	w.vacant = append(w.vacant, uint32(id))
}

// housekeep does what a few times a second is enough for.
func (w *worker) housekeep() {
	if w.now-w.handed >= int64(250*time.Millisecond) {
		w.handed = w.now
		w.handOver()
		w.checkTimeouts()
	}
}

// handOver gives the tally since the last one to the run.
func (w *worker) handOver() {
	t := &tally{}
	t.add(&w.second)
	up := 0
	for _, s := range w.watches {
		if s.state == watchLive {
			up++
		}
	}
	h := handover{worker: w.index, at: w.now, tally: t, streams: up, backlog: w.queue.len(), stage: w.stage}
	select {
	case w.run.seconds <- h:
		w.second.reset()
	default: // the run is busy; it will get both together
	}
}

// phaseAt is the phase of an instant.
func (w *worker) phaseAt(at int64) int {
	for i := len(w.phases) - 1; i > 0; i-- {
		if at >= w.phases[i].start {
			return i
		}
	}
	return 0
}

func (w *worker) phaseTally(at int64) *tally { return &w.tallies[w.phaseAt(at)] }

// count counts something that happened now.
func (w *worker) count(kind int, n int64) {
	w.phaseTally(w.now).n[kind] += n
	w.second.n[kind] += n
}

// record counts a latency for the phase in which it was due.
func (w *worker) record(kind int, due int64) {
	w.phaseTally(due).record(kind, w.now-due)
	w.second.record(kind, w.now-due)
}
