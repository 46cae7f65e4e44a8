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

// pacer is one schedule: it says when the next event is due and never looks at what became of the last one, which is what
// makes the loop open. It is used by one goroutine.
//
// Events are placed in operational time, the integral of the rate: constant pacing puts them at every whole number there,
// Poisson pacing at sums of exponential gaps. Each instant is computed from the number of events before it and not from the
// instant before it, so nothing drifts, and a change of rate neither drops nor doubles an event.
type pacer struct {
	segments []segment // in order, end of one not after start of the next
	current  int
	before   float64 // operational time at the start of segments[current]
	at       float64 // operational time of the event that next returns
	gap      func() float64
}

// newPacer makes a constant schedule, or with a source of randomness a Poisson one. phase in [0, 1) shifts the constant
// one by that share of a gap, so that several workers' events interleave instead of coinciding.
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

// alias draws an index with given probabilities in constant time (Vose's alias method).
type alias struct {
	keep  []float64 // probability that the drawn index stays
	other []uint32  // what it becomes otherwise
}

func newAlias(weights []float64) *alias {
	n := len(weights)
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	a := &alias{keep: make([]float64, n), other: make([]uint32, n)}
	var small, large []int
	for i, w := range weights {
		a.keep[i] = w / sum * float64(n)
		if a.keep[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.other[s] = uint32(l)
		a.keep[l] -= 1 - a.keep[s]
		if a.keep[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // what rounding left over
		a.keep[i] = 1
	}
	return a
}

func (a *alias) draw(rng *rand.Rand) int {
	i := rng.IntN(len(a.keep))
	if rng.Float64() < a.keep[i] {
		return i
	}
	return int(a.other[i])
}

// zipfWeights are the shares of n users when the i-th busiest one has a share proportional to 1/i^skew. Skew 0 is even.
func zipfWeights(n int, skew float64) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = math.Pow(float64(i+1), -skew)
	}
	return w
}

// allot splits total into whole parts in proportion to weights, by largest remainder; earlier parts win ties.
func allot(total int, weights []float64) []int {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	parts := make([]int, len(weights))
	carried := 0.0
	given := 0
	for i, w := range weights {
		carried += w / sum * float64(total)
		parts[i] = int(carried+0.5) - given
		given += parts[i]
	}
	if n := len(parts); n > 0 {
		parts[n-1] += total - given
	}
	return parts
}
