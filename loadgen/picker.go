package loadgen

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

// picker chooses whose heartbeat is next.
type picker struct {
	// Even load: devices in random order, round and round, so that each is heard at its interval; in a closed loop, which has
	// none, each round in another order, or the server would be asked in the order in which it placed them.
	round round
	at    uint32
	users *alias // skewed load: a user by weight, then its devices in turn
	part  float64
}

// share of the whole load that falls to this worker.
func (p *picker) share() float64 { return p.part }

// device chooses; whether it is silent by then the caller asks.
func (p *picker) device(w *worker) (index uint32) {
	if p.users == nil {
		index = p.round.at(p.at)
		if p.at++; p.at == p.round.n {
			p.at = 0
			if w.o.Closed {
				p.round = newRound(p.round.n, w.rng)
			}
		}
	} else {
		u := &w.users[p.users.draw(w.rng)]
		index = u.first + u.turn
		if u.turn++; u.turn == u.count {
			u.turn = 0
		}
	}
	return index
}

// round is a random order of the numbers below n, computed and not stored: at a million devices an array of them would be a cache
// miss for each heartbeat. Additions, products with odd numbers and shifted sums permute the numbers of some bits; one that is
// not below n is mixed again until it is, which permutes those below n (cycle walking; Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002).
type round struct {
	n, mask uint32
	shift   int // half of the bits
	add     [2]uint32
	mul     [2]uint32 // odd
}

func newRound(n uint32, rng *rand.Rand) round {
	width := bits.Len32(n - 1)
	r := round{n: n, mask: 1<<width - 1, shift: (width + 1) / 2}
	for i := range r.mul {
		r.add[i], r.mul[i] = rng.Uint32(), rng.Uint32()|1
	}
	return r
}

// at is the number in place i.
func (r *round) at(i uint32) uint32 {
	for {
		for k := range r.mul {
			i = (i + r.add[k]) * r.mul[k] & r.mask
			i ^= i >> r.shift
		}
		if i < r.n {
			return i
		}
	}
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
