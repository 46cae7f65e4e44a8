// Package sample keeps log lines few that a client can cause.
package sample

import (
	"sync/atomic"
	"time"
)

// Second lets one event through per second. The zero value is ready. Any goroutine may use it.
type Second struct{ last atomic.Int64 }

// Take reports whether this event is the one.
func (s *Second) Take() bool { return take(&s.last, time.Second) }

// Hour lets one event through per hour. The zero value is ready. Any goroutine may use it.
type Hour struct{ last atomic.Int64 }

// Take reports whether this event is the one.
func (h *Hour) Take() bool { return take(&h.last, time.Hour) }

func take(at *atomic.Int64, every time.Duration) bool {
	now, last := time.Now().UnixNano(), at.Load()
	return now-last >= int64(every) && at.CompareAndSwap(last, now)
}
