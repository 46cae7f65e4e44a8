// Package sample keeps log lines few that a client can cause.
package sample

import (
	"sync/atomic"
	"time"
)

// Second lets one event through per second. The zero value is ready. Any goroutine may use it.
type Second struct{ last atomic.Int64 }

// Take reports whether this event is the one.
func (s *Second) Take() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last >= int64(time.Second) && s.last.CompareAndSwap(last, now)
}
