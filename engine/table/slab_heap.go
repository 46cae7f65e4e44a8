//go:build !linux || race

package table

import "unsafe"

// Extents live on the Go heap where mapping is not portable, and in race builds, whose detector is
// blind outside it.

const mapped = false // extents are outside the Go heap and aligned

func newExtent(int) (*extent, error) { return new(extent), nil }

func freeExtent(*extent, int) {}

func adviseHuge(unsafe.Pointer, int) {}
