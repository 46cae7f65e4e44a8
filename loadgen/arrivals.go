package loadgen

import "math/rand/v2"

// arrivals decides which device's heartbeat falls due when. It knows nothing of the answers (G1).
// Single owner: the worker's goroutine.
type arrivals struct {
	*turn
	crowd   *crowd
	meter   *meter
	ledger  *ledger
	pacer   *pacer
	nextDue int64 // never: nothing more
	pick    picker
}

// begin starts the schedule of an open loop. phase shifts it, so that several workers interleave.
func (a *arrivals) begin(phase float64) {
	var segments []segment
	for i := range a.meter.phases {
		if p := &a.meter.phases[i]; p.factor > 0 {
			segments = append(segments, segment{p.start, p.end, a.o.Rate * p.factor * a.pick.share})
		}
	}
	var poisson *rand.Rand
	if a.o.Arrivals == "poisson" {
		poisson = a.rng
	}
	a.pacer = newPacer(segments, phase, poisson)
	a.step()
}

func (a *arrivals) step() {
	due, ok := a.pacer.next()
	if !ok {
		due = never
	}
	a.nextDue = due
}

// end ends the schedule.
func (a *arrivals) end() { a.nextDue = never }

// fire queues what is due.
func (a *arrivals) fire() {
	if a.stage != loading {
		return
	}
	for a.nextDue <= a.now {
		due := a.nextDue
		a.step()
		d := a.device()
		if due >= a.crowd.devices[d].silent {
			continue
		}
		a.meter.offer(due)
		a.ledger.queue.push(beat{device: d, due: due})
	}
}

// device chooses the device that sends next. It may be busy or silent.
func (a *arrivals) device() uint32 { return a.pick.next(a.crowd, a.rng, a.o.Closed) }

// idle chooses a device for a closed loop, one that is neither busy nor silent.
func (a *arrivals) idle() (b beat, ok bool) {
	for range 64 {
		if d := a.device(); a.crowd.devices[d].idle(a.now) {
			a.meter.count(offered, 1)
			return beat{device: d, due: a.now}, true
		}
	}
	return b, false
}
