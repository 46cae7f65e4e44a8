package loadgen

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

// picker chooses the device that sends next.
type picker struct {
	// Even load: devices in random order, round and round, so that each sends at its interval. In a
	// closed loop, which has none, each round has another order, or the server would be asked in
	// the order in which it placed them.
	round round
	at    uint32
	users *alias  // skewed load: a user by weight, then its devices in turn
	share float64 // of the whole load that falls to this worker
}

// next chooses. Whether the device is silent by then, the caller asks.
func (p *picker) next(c *crowd, rng *rand.Rand, closed bool) (device uint32) {
	if p.users != nil {
		u := &c.users[p.users.draw(rng)]
		device = u.first + u.turn
		if u.turn++; u.turn == u.count {
			u.turn = 0
		}
		return device
	}
	device = p.round.at(p.at)
	if p.at++; p.at == p.round.n {
		p.at = 0
		if closed {
			p.round = newRound(p.round.n, rng)
		}
	}
	return device
}

// round is a random order of the numbers below n, computed and not stored: at a million devices an
// array of them would be a cache miss for each heartbeat. Additions, products with odd numbers and
// shifted sums permute the numbers of some bits; one that is not below n is mixed again until it
// is, which permutes those below n (cycle walking; Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002, https://doi.org/10.1007/3-540-45760-7_9).
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

// alias draws an index with given probabilities in constant time: Vose's alias method (1991,
// https://doi.org/10.1109/32.92917).
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

// zipfWeights are the shares of n users when the i-th busiest has a share proportional to
// 1/i^skew (Zipf's law). Skew 0 is even.
func zipfWeights(n int, skew float64) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = math.Pow(float64(i+1), -skew)
	}
	return w
}

// allot splits total into whole parts in proportion to weights. Each part is what rounding the sum
// up to it adds, so that the parts have the total.
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
