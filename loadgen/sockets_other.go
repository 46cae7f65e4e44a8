//go:build !linux

package loadgen

func newSockets() (sockets, error) { return newPortableSockets(), nil }
