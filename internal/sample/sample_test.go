package sample

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestOnePerHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hour
		if !h.Take() || h.Take() {
			t.Error("not one at first")
		}
		time.Sleep(time.Hour - 1)
		early := h.Take()
		if time.Sleep(time.Nanosecond); early || !h.Take() || h.Take() {
			t.Error("not one after an hour")
		}
	})
}

func TestOnePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Second
		for n, step := range []struct {
			after time.Duration
			want  bool
		}{{0, true}, {0, false}, {time.Second - 1, false}, {1, true}, {time.Hour, true},
			{time.Millisecond, false}} {
			time.Sleep(step.after)
			if got := s.Take(); got != step.want {
				t.Errorf("event %d: %v", n, got)
			}
		}
	})
}
