//go:build !linux

package main

// releaseStartPages leaves the pages of the start to the kernel.
func releaseStartPages() {}
