package cluster

import (
	"testing"

	"rollcall/engine"
)

// TestAllRead: a format is written when the last member has said that it reads it, and not while
// one is silent.
func TestAllRead(t *testing.T) {
	d := newDirectory(engine.NewClock(), 4)
	members := []string{"n1", "n2", "n3"}
	check := func(when string, format int, want bool) {
		t.Helper()
		if got := d.allRead(format, members); got != want {
			t.Errorf("%s: format %d may be written: %v", when, format, got)
		}
	}
	check("no pulse yet", 1, false)
	d.hear(&pulse{Node: "n1", Formats: []int{1, 2}})
	d.hear(&pulse{Node: "n2", Formats: []int{1, 2}})
	check("one was not heard", 1, false)
	d.hear(&pulse{Node: "n3", Formats: []int{1}})
	check("one is older", 1, true)
	check("one is older", 2, false)
	d.hear(&pulse{Node: "n3", Formats: []int{1, 2}})
	check("all are updated", 2, true)
	members = nil
	check("no members are known", 1, false)
}
