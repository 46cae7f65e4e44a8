// Package testseed seeds random tests, so that a failure can be repeated, and says how long they go
// on.
package testseed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Of is the seed of a random test: ROLLCALL_SEED, or a new one. It is logged, in the form in which
// it is given again.
func Of(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv("ROLLCALL_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("ROLLCALL_SEED: %v", err)
		}
	}
	t.Logf("ROLLCALL_SEED=%d", seed)
	return seed
}

// Rand is a source of random numbers with that seed.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(Of(t), 0))
}

// Rounds is how often a random test does its work: what an environment variable says, else one
// number with -short and another without.
func Rounds(t testing.TB, variable string, short, long int) int {
	t.Helper()
	if given := os.Getenv(variable); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
		return n
	}
	if testing.Short() {
		return short
	}
	return long
}
