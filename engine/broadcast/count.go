package broadcast

import (
	"sync"
	"sync/atomic"
)

// openCount counts the streams, and knows when draining has ended the last. Any goroutine.
type openCount struct {
	limit int64

	// live counts the streams that Subscribe took and that have not been freed.
	live atomic.Int64

	// draining is set once every worker refuses new streams. drain stores it and then loads live;
	// leave decrements live and then loads draining: one of the two sees that the last stream is
	// gone.
	draining  atomic.Bool
	drainOnce sync.Once
	doneOnce  sync.Once
	done      chan struct{}
}

func newOpenCount(limit int64) *openCount {
	return &openCount{limit: limit, done: make(chan struct{})}
}

// enter counts one more stream, unless there are as many as allowed.
func (o *openCount) enter() bool {
	if o.live.Add(1) > o.limit {
		o.leave()
		return false
	}
	return true
}

// leave takes a stream off the count.
func (o *openCount) leave() {
	if o.live.Add(-1) == 0 && o.draining.Load() {
		o.finish()
	}
}

// drain calls refuse once, which makes every worker refuse new streams, and returns a channel that
// is closed when the last stream has left.
func (o *openCount) drain(refuse func()) <-chan struct{} {
	o.drainOnce.Do(func() {
		refuse()
		o.draining.Store(true)
		if o.live.Load() == 0 {
			o.finish()
		}
	})
	return o.done
}

func (o *openCount) finish() { o.doneOnce.Do(func() { close(o.done) }) }
