//go:build !linux

package bench

func hugeSlice[T any](n int) []T { return make([]T, n) }

func freeHuge[T any]([]T) {}
