package partition

import (
	"testing"

	"github.com/google/uuid"
)

// TestGolden keeps users where they are: a cluster has their devices there.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		user  string
		of    int
		where int
	}{
		{"00000000-0000-0000-0000-000000000000", 1, 0},
		{"00000000-0000-0000-0000-000000000000", 6, 0},
		{"00000000-0000-0000-0000-000000000000", 64, 50},
		{"00000000-0000-0000-0000-000000000000", 1024, 50},
		{"11111111-1111-4111-8111-111111111111", 1, 0},
		{"11111111-1111-4111-8111-111111111111", 6, 0},
		{"11111111-1111-4111-8111-111111111111", 64, 60},
		{"11111111-1111-4111-8111-111111111111", 1024, 700},
		{"f47ac10b-58cc-4372-a567-0e02b2c3d479", 1, 0},
		{"f47ac10b-58cc-4372-a567-0e02b2c3d479", 6, 4},
		{"f47ac10b-58cc-4372-a567-0e02b2c3d479", 64, 8},
		{"f47ac10b-58cc-4372-a567-0e02b2c3d479", 1024, 840},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", 1, 0},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", 6, 2},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", 64, 4},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", 1024, 68},
	} {
		if got := Of(uuid.MustParse(c.user), c.of); got != c.where {
			t.Errorf("%s of %d is in partition %d, not %d", c.user, c.of, got, c.where)
		}
	}
}

// TestEven: no partition has many more users than another.
func TestEven(t *testing.T) {
	const partitions, users = 64, 64_000
	var counts [partitions]int
	for i := range users {
		user := uuid.UUID{0: byte(i), 1: byte(i >> 8), 2: byte(i >> 16)} // as bad as ids may be
		counts[Of(user, partitions)]++
	}
	for p, n := range counts {
		if n < users/partitions*3/4 || n > users/partitions*5/4 {
			t.Errorf("partition %d has %d of %d users", p, n, users)
		}
	}
}
