package faultfs

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Hook returns fs with a function that is called once, before the first operation that matches.
func Hook(fs vfs.FS, match func(errorfs.Op) bool, do func()) vfs.FS {
	var done atomic.Bool
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if match(op) && !done.Swap(true) {
			do()
		}
		return nil
	}))
}
