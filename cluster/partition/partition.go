// Package partition says which partition of a cluster a user belongs to.
//
// The answer is part of the data: every node, and every later version, must give the same one, so
// TestGolden fails when it changes.
package partition

import (
	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// Of returns the user's partition, of n, which is at least 1. Any goroutine may call it.
func Of(user uuid.UUID, n int) int { return int(xxhash.Sum64(user[:]) % uint64(n)) }
