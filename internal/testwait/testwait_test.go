package testwait

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntilAsksAgain(t *testing.T) {
	asked := 0
	Until(t, "asked 150 times", func() bool { asked++; return asked == 150 })
	if asked != 150 {
		t.Errorf("asked %d times", asked)
	}
	var done atomic.Bool
	go done.Store(true)
	Until(t, "the other goroutine is done", done.Load)
}

func TestForReturnsTheValue(t *testing.T) {
	ch := make(chan int)
	go func() { ch <- 7; close(ch) }()
	if got := For(t, "a value", ch); got != 7 {
		t.Errorf("got %d", got)
	}
	if got := For(t, "the end", ch); got != 0 {
		t.Errorf("got %d of a closed channel", got)
	}
}

// recorder notes a failure instead of passing it on.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// A condition that never holds fails the test after Limit, and the message has the condition and
// the stacks.
func TestLimit(t *testing.T) {
	for name, wait := range map[string]func(testing.TB){
		"Until": func(t testing.TB) { Until(t, "the moon is full", func() bool { return false }) },
		"For":   func(t testing.TB) { For(t, "the moon is full", make(chan int)) },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{TB: t}
			began := time.Now()
			done := make(chan struct{})
			go func() { defer close(done); wait(r) }()
			<-done
			if !strings.Contains(r.failure, "the moon is full") ||
				!strings.Contains(r.failure, "goroutine") {
				t.Errorf("%s: %.200q", name, r.failure)
			}
			if took := time.Since(began); took < Limit || took > Limit+time.Second {
				t.Errorf("%s: failed after %v", name, took)
			}
		})
	}
}
