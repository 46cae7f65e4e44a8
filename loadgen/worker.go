package loadgen

import (
	"fmt"
	"math/rand/v2"
	"time"

	"rollcall/wire"
)

// worker is one event loop with a share of the users, all of their devices and streams, some
// connections, and a schedule. Its parts share the turn and are called by one goroutine, so the
// oracle needs no lock and no order between processors. Orders come in through atomics, and tallies
// leave through a channel.
//
// One turn of the loop: put what is due into the queue; run timers; give the queue to free
// connections; write; wait until the next thing is due; serve at most turnEvents sockets.
type worker struct {
	turn
	index    int
	scenario *scenario
	handed   int64 // when the last tally was handed over

	crowd    crowd
	meter    meter
	outage   outages
	oracle   oracle
	reactor  reactor
	ledger   ledger
	arrivals arrivals
	sender   sender
	streams  streams
	checks   checks
	resumes  resumeChecks
	flips    flips
}

// newWorker joins the parts. plan is copied.
func newWorker(r *runner, index int, net sockets, targets []target) *worker {
	o := r.o
	w := &worker{index: index, scenario: r.scenario}
	t := &w.turn
	*t = turn{o: o, run: r.orders, rng: rand.New(rand.NewPCG(o.Seed, uint64(index+1)))}
	w.meter = newMeter(t, r.plan)
	w.reactor = reactor{net: net, targets: targets, input: make([]byte, 256<<10)}
	w.oracle = oracle{turn: t, crowd: &w.crowd, meter: &w.meter, outage: &w.outage}
	w.ledger = newLedger(t, &w.crowd, &w.meter, &w.oracle, &w.outage)
	w.arrivals = arrivals{turn: t, crowd: &w.crowd, meter: &w.meter, ledger: &w.ledger,
		nextDue: never}
	w.sender = sender{turn: t, meter: &w.meter, oracle: &w.oracle, outage: &w.outage,
		reactor: &w.reactor, ledger: &w.ledger, arrivals: &w.arrivals,
		gatherer: gatherer{turn: t, crowd: &w.crowd, meter: &w.meter, ledger: &w.ledger,
			arrivals: &w.arrivals}}
	w.ledger.retried = w.sender.retried
	w.streams = streams{turn: t, crowd: &w.crowd, meter: &w.meter, oracle: &w.oracle,
		outage: &w.outage, reactor: &w.reactor,
		suffix: frameSuffix(o.TTL.Milliseconds()), checked: newHistogram()}
	for node, to := range targets {
		w.sender.requests = append(w.sender.requests,
			newTemplate(to.host, wire.HeartbeatPath, o.IngestToken, o.TTL))
		w.sender.batches = append(w.sender.batches,
			newBatchTemplate(to.host, wire.HeartbeatsPath, o.IngestToken, o.TTL))
		w.streams.renewals = append(w.streams.renewals,
			renewals{turn: t, streams: &w.streams, node: node})
	}
	w.checks = checks{turn: t, crowd: &w.crowd, oracle: &w.oracle, streams: &w.streams}
	w.resumes = resumeChecks{turn: t, oracle: &w.oracle, streams: &w.streams}
	w.flips = flips{turn: t, crowd: &w.crowd}
	return w
}

func (w *worker) loop() {
	w.sender.open()
	for w.stage != finished && w.run.failure.Load() == nil {
		w.readClock()
		w.advance()
		w.arrivals.fire()
		w.timers.runDue(w.now)
		w.sender.dispatch()
		w.streams.openDue()
		w.sender.flush()
		w.housekeep()
		if err := w.serve(); err != nil {
			w.run.fail(fmt.Errorf("loadgen: wait for sockets: %w", err))
		}
	}
	w.reactor.close()
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
			w.arrivals.end()
			w.streams.catchUp()
			w.enter(draining)
		}
	case draining:
		limit := int64(w.o.MaxWait + w.outage.allowance(w.o))
		if w.ledger.empty() || w.now-w.since > limit {
			w.ledger.abandon()
			w.sender.close()
			w.enter(settling)
		}
	case settling:
		if w.streams.settled() {
			w.streams.judgeAll()
			w.enter(verifying)
			w.checks.begin()
			w.resumes.begin()
		}
	case verifying:
		if w.checks.done() && w.resumes.done() {
			w.enter(finished)
		}
	}
}

// begin starts the schedule at an instant of the run's clock, and plans what else happens.
func (w *worker) begin(at int64) {
	w.meter.begin(at)
	measured := at + int64(w.o.Warmup)
	eventAt := measured + int64(w.scenario.eventAt*float64(w.o.Duration))
	phase := float64(w.index) / float64(w.o.Workers)
	w.streams.plan(at, phase)
	w.crowd.silence(w.o, w.rng, measured, w.scenario.event == silence, eventAt)
	w.flips.plan(measured, phase)
	if w.scenario.event == cutStreams {
		w.timers.add(eventAt, func() { w.streams.hangUp(eventAt) })
	}
	if w.o.Closed {
		w.sender.refillAll()
		return
	}
	w.arrivals.begin(phase)
}

// serve waits for sockets until the next thing is due.
func (w *worker) serve() error {
	until := min(w.arrivals.nextDue, w.timers.next(), w.now+int64(20*time.Millisecond),
		w.sender.batchDue())
	if w.streams.toOpen.len() > 0 || w.stage == verifying {
		until = min(until, w.now+int64(time.Millisecond))
	}
	ready, err := w.reactor.wait(time.Duration(until - w.run.clock()))
	w.readClock()
	for _, r := range ready {
		w.reactor.serve(r)
		if w.arrivals.nextDue <= w.now {
			w.arrivals.fire()
			w.sender.dispatch()
			w.sender.flush()
		}
	}
	return err
}

// housekeep does what a few times a second is enough for.
func (w *worker) housekeep() {
	if w.now-w.handed < int64(250*time.Millisecond) {
		return
	}
	w.handed = w.now
	w.handOver()
	limit := w.now - int64(w.o.Timeout)
	w.sender.checkTimeouts(limit)
	w.streams.checkTimeouts(limit)
	w.streams.sweep()
}

// handOver gives the tally since the last one to the run. When the run is busy, the next one has
// both.
func (w *worker) handOver() {
	h := handover{worker: w.index, at: w.now, tally: w.meter.sinceHandover(),
		streams: w.streams.up(),
		backlog: w.ledger.queue.len(), stage: w.stage}
	select {
	case w.run.seconds <- h:
		w.meter.second.reset()
	default:
	}
}
