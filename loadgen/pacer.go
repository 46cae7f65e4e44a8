package loadgen

import (
	"math"
	"math/rand/v2"
)

// segment is a stretch of time with one offered rate. Times are nanoseconds of the run's clock.
type segment struct {
	start, end int64
	rate       float64 // events per second; 0 is a pause
}

// pacer is one schedule: it says when the next event is due and never looks at what became of the
// last one, which is what makes the loop open. It is used by one goroutine.
//
// Events are placed in operational time, the integral of the rate: constant pacing puts them at
// every whole number there, Poisson pacing at sums of exponential gaps. Each instant is computed
// from the number of events before it and not from the instant before it, so nothing drifts, and a
// change of rate neither drops nor doubles an event.
type pacer struct {
	segments []segment // in order, end of one not after start of the next
	current  int
	before   float64 // operational time at the start of segments[current]
	at       float64 // operational time of the event that next returns
	gap      func() float64
}

// newPacer makes a constant schedule, or with a source of randomness a Poisson one. phase in [0, 1)
// shifts the constant one by that share of a gap, so that several workers' events interleave
// instead of coinciding.
func newPacer(segments []segment, phase float64, poisson *rand.Rand) *pacer {
	p := &pacer{segments: segments, at: phase, gap: func() float64 { return 1 }}
	if poisson != nil {
		p.gap = poisson.ExpFloat64
		p.at = p.gap()
	}
	return p
}

// next returns the instant of the next event; ok is false after the last one.
func (p *pacer) next() (due int64, ok bool) {
	for p.current < len(p.segments) {
		s := &p.segments[p.current]
		size := s.rate * float64(s.end-s.start) / 1e9
		if p.at < p.before+size {
			due = s.start + int64(math.Round((p.at-p.before)/s.rate*1e9))
			p.at += p.gap()
			return min(due, s.end), true
		}
		p.before += size
		p.current++
	}
	return 0, false
}
