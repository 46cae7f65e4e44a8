package loadgen

import (
	"math"
	"math/rand/v2"
)

// picker chooses whose heartbeat is next.
type picker struct {
	// Even load: devices in random order, round and round, so that each is heard at its interval; in a closed loop, which has
	// none, each round in another order.
	order []uint32
	at    int
	users *alias // skewed load: a user by weight, then its devices in turn
	part  float64
}

// share of the whole load that falls to this worker.
func (p *picker) share() float64 { return p.part }

// device chooses; ok is false when it is silent by then.
func (p *picker) device(w *worker, due int64) (index uint32, ok bool) {
	if p.users == nil {
		if w.o.Closed {
			// One step of Fisher and Yates: or the server would be asked each time in the order in which it placed them.
			other := p.at + w.rng.IntN(len(p.order)-p.at)
			p.order[p.at], p.order[other] = p.order[other], p.order[p.at]
		}
		index = p.order[p.at]
		if p.at++; p.at == len(p.order) {
			p.at = 0
		}
	} else {
		u := &w.users[p.users.draw(w.rng)]
		index = u.first + u.turn
		if u.turn++; u.turn == u.count {
			u.turn = 0
		}
	}
	return index, due < w.devices[index].silent
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
