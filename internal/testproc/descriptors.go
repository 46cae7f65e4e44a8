package testproc

import (
	"os"
	"runtime"
	"testing"
)

// Descriptors counts the descriptors that this process has open; 0 on systems that do not say.
func Descriptors(t testing.TB) int {
	t.Helper()
	r, w, err := os.Pipe() // the runtime's own come with the first
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(open)
}
