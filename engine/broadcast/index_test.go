package broadcast

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
)

// TestIndex compares an index with a map, and what it takes with its users.
func TestIndex(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	idOf := func(n uint32) (id uuid.UUID) {
		binary.BigEndian.PutUint32(id[:], n)
		return id
	}
	x := userIndex[uint32]{idOf: idOf}
	model := make(map[uint32]bool)
	cells := func() (n int) {
		for i := range x.tables {
			n += len(x.tables[i].cells)
		}
		return n
	}
	for step, most := range []uint32{30, 20_000, 300} { // so that tables are sparse, grow, empty
		for range 60_000 {
			n := 1 + rng.Uint32N(most)
			id := idOf(n)
			switch found := x.find(hashOf(id), id); {
			case (found != 0) != model[n] || found != 0 && found != n:
				t.Fatalf("seed %d: %d is found as %d, and is there: %v", seed, n, found, model[n])
			case found == 0:
				x.insert(hashOf(id), n)
				model[n] = true
			default:
				x.remove(hashOf(id), n)
				delete(model, n)
			}
		}
		seen := 0
		for n := range x.all {
			if seen++; !model[n] {
				t.Errorf("seed %d: all has %d", seed, n)
			}
		}
		if seen != len(model) || x.users != len(model) {
			t.Errorf("seed %d: all has %d, and %d are counted, of %d",
				seed, seen, x.users, len(model))
		}
		if step == 1 && cells() > 2*len(model) {
			t.Errorf("%d users take %d cells", len(model), cells())
		}
	}
	for n := range model {
		x.remove(hashOf(idOf(n)), n)
	}
	if x.users != 0 || cells() != 0 {
		t.Errorf("seed %d: %d users and %d cells are left", seed, x.users, cells())
	}
}
