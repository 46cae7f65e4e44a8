package jslog

import (
	"testing"
	"time"
)

// TestRest: how long the loop rests, by what it has seen of the appends before.
func TestRest(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		what             string
		last             int
		best, took, want time.Duration
	}{
		{"appends that wait for nothing", 100, 2 * ms, 2 * ms, ms},
		{"a far disk", 100, 8 * ms, 8 * ms, 2 * ms},
		{"a crowd that waits", 100, ms, 2 * ms, 5 * ms},
		{"one that waits long", 100, ms, 5 * ms, maxPause},
		{"few that wait", 2, ms, 5 * ms, 4 * ms},
		{"a small crowd", 8, ms, 2 * ms, 3 * ms},
	} {
		a := appender{last: test.last, took: test.took, best: test.best}
		if got := a.rest(); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

// TestBest: the best append counts for long, and not for ever.
func TestBest(t *testing.T) {
	const ms = time.Millisecond
	var a appender
	a.noteTook(4 * ms)
	if a.best != 4*ms || a.rest() != 2*ms {
		t.Errorf("after the first append: %v, a rest of %v", a.best, a.rest())
	}
	a.noteTook(ms)
	for range 100 {
		a.noteTook(5 * ms)
	}
	if a.best < ms || a.best > 2*ms {
		t.Errorf("after a hundred slow ones: %v", a.best)
	}
	for range 10_000 {
		a.noteTook(5 * ms)
	}
	if a.best != 5*ms {
		t.Errorf("where all are slow: %v", a.best)
	}
}
