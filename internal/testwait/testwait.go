// Package testwait waits in tests for what another goroutine, another process or the kernel is
// about to do. It is the only place where a test sleeps, and no test concludes anything from how
// long it waited: the limit only keeps a test that hangs from hanging for ever.
package testwait

import (
	"runtime"
	"testing"
	"time"
)

// Limit is how long a condition may take. Nothing that the tests wait for takes more than a second
// on an idle machine; the rest is for busy ones.
const Limit = time.Minute

// Until returns once a condition holds. It fails the test, with the stacks of all goroutines, when
// that takes longer than Limit. Only the test's own goroutine may call it.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !poll(holds, Limit) {
		fail(t, what)
	}
}

// For returns the next value of a channel, the zero value when it is closed. It fails the test,
// with the stacks of all goroutines, when that takes longer than Limit. Only the test's own
// goroutine may call it.
func For[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	late := time.NewTimer(Limit)
	defer late.Stop()
	select {
	case v := <-ch:
		return v
	case <-late.C:
		fail(t, what)
		panic("not reached")
	}
}

// poll asks until a condition holds, and reports false when it did not within limit. It yields
// first, since most conditions are a few turns of the scheduler away, and then leaves the processor
// to others for longer and longer.
func poll(holds func() bool, limit time.Duration) bool {
	const yields, longest = 100, 2 * time.Millisecond
	pause := 10 * time.Microsecond
	for n, began := 0, time.Now(); !holds(); n++ {
		switch {
		case n < yields:
			runtime.Gosched()
		case time.Since(began) > limit:
			return false
		default:
			time.Sleep(pause)
			pause = min(2*pause, longest)
		}
	}
	return true
}

func fail(t testing.TB, what string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	t.Fatalf("waited %v in vain: %s\n\n%s", Limit, what, stacks[:runtime.Stack(stacks, true)])
}
