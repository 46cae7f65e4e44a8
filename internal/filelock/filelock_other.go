//go:build !linux && !darwin && !freebsd

// Package filelock locks open files. On this system it cannot: Share is always granted, Exclusive
// never.
package filelock

import "github.com/cockroachdb/pebble/v2/vfs"

// Share grants a shared lock.
func Share(vfs.File) bool { return true }

// Exclusive refuses an exclusive lock.
func Exclusive(vfs.File) bool { return false }

// Claim grants an exclusive lock: what else keeps others out counts.
func Claim(vfs.File) bool { return true }

// Unlock gives back the lock of Exclusive.
func Unlock(vfs.File) {}
