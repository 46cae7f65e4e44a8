// Package eintr repeats system calls that a signal interrupted.
package eintr

import (
	"errors"
	"syscall"
)

// Retry calls fn until no signal interrupts it, and returns what fn returned then. The runtime's
// own signals restart a call (SA_RESTART), but signal(7) names calls that return EINTR all the
// same, and file systems such as FUSE return it from others.
func Retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
