//go:build !linux || race

package table

// Chunks live on the Go heap where mapping is not portable, and in race builds, whose detector is
// blind outside it.

const mapped = false // chunks are outside the Go heap and aligned

func newChunk(int) (*chunk, error) { return new(chunk), nil }

func freeChunk(*chunk, int) {}
