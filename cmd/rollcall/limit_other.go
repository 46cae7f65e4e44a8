//go:build !unix

package main

// descriptorLimit: there is none that a process could ask for.
func descriptorLimit() (uint64, bool) { return 0, false }

func raiseDescriptorLimit(uint64) bool { return false }
