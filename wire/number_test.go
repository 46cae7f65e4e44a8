package wire

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/uuid"
)

// TestAppendUint: as strconv writes it, around each power of ten and two, and at random.
func TestAppendUint(t *testing.T) {
	var times Times
	check := func(n uint64) {
		t.Helper()
		want := "x" + strconv.FormatUint(n, 10)
		if got := string(AppendUint([]byte("x"), n)); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		for range 2 { // its upper digits are new, or known
			if got := string(times.Append([]byte("x"), n)); got != want {
				t.Fatalf("as a time %s, want %s", got, want)
			}
		}
	}
	for power := uint64(1); power < 1e19; power *= 10 {
		for n := power - 1; n <= power+1; n++ {
			check(n)
		}
	}
	for shift := range 64 {
		check(1<<shift - 1)
		check(1 << shift)
	}
	check(math.MaxUint64)
	for n := range uint64(10_000) { // each part of eightDigits goes through all of its values
		check(n)
		check(n * 1e4)
		check(n*1e8 + 1e12)
		check(n*1e12 + 1)
	}
	for range 100_000 {
		check(rand.Uint64() >> rand.IntN(64))
	}
}

func BenchmarkAppendUint(b *testing.B) {
	dst := make([]byte, 0, 64)
	for name, n := range map[string]uint64{"digits=2": 42, "digits=13": 1_739_030_400_000} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				dst = AppendUint(dst[:0], n)
			}
		})
	}
}

// TestAppendID: as uuid writes it, at random and with each byte in each place.
func TestAppendID(t *testing.T) {
	check := func(id uuid.UUID) {
		t.Helper()
		if got, want := string(AppendID([]byte("x"), id)), "x"+id.String(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	for b := range 256 {
		for i := range 16 {
			id := uuid.Max
			id[i] = byte(b)
			check(id)
		}
	}
	for range 1000 {
		check(uuid.New())
	}
}
