package loadgen

// planEvents sets the timers of everything that happens during the load: streams open during the warm-up, some devices fall
// silent, streams come and go, and the scenario's event.
func (w *worker) planEvents(at int64) {
	o := w.o
	for i, s := range w.watches {
		due := at + int64(float64(o.Warmup)*0.8*float64(i)/float64(len(w.watches)))
		w.timers.after(due, func() { s.openSoon(due) })
	}
	measured := at + int64(o.Warmup)
	eventAt := measured + int64(w.plot.eventAt*float64(o.Duration))
	w.silenceSome(measured, eventAt)
	if w.plot.event == cutStreams {
		w.timers.after(eventAt, func() {
			for _, s := range w.watches {
				s.hangUp(eventAt)
			}
		})
	}
	if o.Churn > 0 && len(w.watches) > 0 {
		rate := o.Churn * float64(len(w.watches)) / max(1, float64(o.Users)*o.StreamsPerUser)
		w.churn(newPacer([]segment{{measured, measured + int64(o.Duration), rate}}, float64(w.index)/float64(o.Workers), nil))
	}
}

// churn lets a random stream hang up and come back at each instant of the schedule.
func (w *worker) churn(p *pacer) {
	due, ok := p.next()
	if !ok {
		return
	}
	w.timers.after(due, func() {
		w.churn(p)
		if w.stage == loading {
			w.watches[w.rng.IntN(len(w.watches))].hangUp(due)
		}
	})
}

// silenceSome chooses who falls silent, and when: all together in the scenario for it, else each at its own time, early
// enough to be flagged during the load.
func (w *worker) silenceSome(measured, eventAt int64) {
	o := w.o
	room := max(int64(o.Duration-o.TTL-o.Patience), int64(o.Duration/2))
	for i := range w.devices {
		if o.SilentShare == 0 || w.rng.Float64() >= o.SilentShare {
			continue
		}
		w.devices[i].silent = eventAt
		if w.plot.event != silence {
			w.devices[i].silent = measured + w.rng.Int64N(room)
		}
	}
}
