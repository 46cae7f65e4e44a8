package loadgen

// flips lets devices pause until they are offline and come back, so that users' status changes.
// Single owner: the worker's goroutine.
type flips struct {
	*turn
	crowd *crowd
}

// plan pauses a random device at each instant of a schedule.
func (f *flips) plan(at int64, phase float64) {
	if f.o.FlipShare > 0 {
		rate := f.o.FlipShare * float64(len(f.crowd.devices)) / 60
		f.next(newPacer([]segment{{at, at + int64(f.o.Duration), rate}}, phase, nil))
	}
}

func (f *flips) next(p *pacer) {
	due, ok := p.next()
	if !ok {
		return
	}
	f.timers.add(due, func() {
		f.next(p)
		if f.stage == loading {
			f.pause(&f.crowd.devices[f.rng.IntN(len(f.crowd.devices))])
		}
	})
}

// pause silences d for one to two TTLs, unless it falls silent for good.
func (f *flips) pause(d *device) {
	if d.silent != never {
		return
	}
	d.silent = f.now
	ttl := int64(f.o.TTL)
	f.after(ttl+f.rng.Int64N(ttl), func() { d.silent = never })
}
