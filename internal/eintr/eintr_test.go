package eintr_test

import (
	"io/fs"
	"syscall"
	"testing"

	"rollcall/internal/eintr"
)

// An interrupted call is made again, however the error is wrapped. Any other outcome is returned as
// it is, after one call.
func TestRetry(t *testing.T) {
	wrapped := &fs.PathError{Op: "sync", Path: "x", Err: syscall.EINTR}
	failed := &fs.PathError{Op: "sync", Path: "x", Err: syscall.EIO}
	for name, outcomes := range map[string][]error{
		"success":             {nil},
		"failure":             {failed},
		"number":              {syscall.EAGAIN},
		"interrupted":         {syscall.EINTR, wrapped, syscall.EINTR, nil},
		"interrupted, failed": {wrapped, syscall.EINTR, failed},
	} {
		calls := 0
		err := eintr.Retry(func() error {
			calls++
			return outcomes[calls-1]
		})
		if want := outcomes[len(outcomes)-1]; err != want || calls != len(outcomes) {
			t.Errorf("%s: %v after %d calls, want %v after %d", name, err, calls, want, len(outcomes))
		}
	}
}
