//go:build !linux

package loadgen

func fineTimers() {}
