//go:build !linux

package loadgen

func newSockets() (sockets, error) { return newPortableSockets(), nil }

// fineTimers is for systems whose timers are coarse by default.
func fineTimers() {}
