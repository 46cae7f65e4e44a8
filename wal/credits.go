package wal

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// credits is the room in the commit buffers. A credit is the right to append one record of a given
// size. Any goroutine.
//
// The word is the number of free bytes, minus a bias for each reason to refuse. The biases make the
// hot path of Reserve one load and one compare-and-swap: whatever the reason, there is simply not
// enough. They also make closing exact: a credit is taken either before the log is closed, and then
// Close waits for it, or not at all.
//
// W2: word + reserved + filling = capacity, biases aside. Only take and give move bytes.
type credits struct {
	_         [64]byte     // keeps the words that every appender writes off the lines before
	word      atomic.Int64 // free bytes and biases
	reservers atomic.Int64 // goroutines in reserveSlow
	_         [48]byte     // and off those behind

	capacity int64 // of one buffer; immutable
	mu       sync.Mutex
	room     chan struct{} // guarded by mu: closed when credit came back; nil while none waits
}

const (
	biasStalled = 1 << 59 // the disk does not finish a commit
	biasGated   = 1 << 60 // no room for the next segment
	biasFailed  = 1 << 61
	biasClosed  = 1 << 62 // also before Start
)

// take takes n bytes of credit if there are so many.
func (c *credits) take(n int) bool {
	for {
		word := c.word.Load()
		if word < int64(n) {
			return false
		}
		if c.word.CompareAndSwap(word, word-int64(n)) {
			return true
		}
	}
}

// give returns n bytes and wakes the goroutines that wait for them.
func (c *credits) give(n int) {
	c.word.Add(int64(n))
	if c.reservers.Load() > 0 { // pairs with reserve: it counts itself first and tries again then
		c.wake()
	}
}

// refuse makes every later take fail, until allow.
func (c *credits) refuse(bias int64) { c.word.Add(-bias) }

// allow takes one reason to refuse away.
func (c *credits) allow(bias int64) { c.word.Add(bias) }

// free returns the free bytes, biases aside. The biases are multiples of 2^59 and the free bytes
// are far below that, so the low 59 bits are the free bytes.
func (c *credits) free() int64 { return c.word.Load() & (math.MaxInt64 >> 4) }

// allHome reports whether no credit is out and nothing is filling (W2).
func (c *credits) allHome() bool { return c.free() == c.capacity }

// closed reports whether Close refuses credits: the other biases together are less than its.
func (c *credits) closed() bool { return c.word.Load() < biasStalled-biasClosed }

// reserve is take with a wait of at most maxWait. It returns refusal's error as soon as there is
// one, and full's when the time is over. It calls want before each wait, to have what was appended
// sealed, which gives credit back: an appender need not have done so yet. Credit that is taken and
// not yet appended comes back without it: its appender waits, kicks, or reserves more and comes
// here itself.
func (c *credits) reserve(
	size int, maxWait time.Duration, want func(), refusal, full func() error,
) error {
	c.reservers.Add(1) // before the tries below: give looks after it gave
	defer c.reservers.Add(-1)
	var timeout <-chan time.Time
	for {
		room := c.roomChannel()
		if c.take(size) {
			return nil
		}
		if err := refusal(); err != nil {
			return err
		}
		want()
		if maxWait > 0 && timeout == nil {
			timer := time.NewTimer(maxWait)
			defer timer.Stop()
			timeout = timer.C
		}
		if timeout == nil {
			return full()
		}
		select {
		case <-room:
		case <-timeout:
			if c.take(size) {
				return nil
			}
			return full()
		}
	}
}

// roomChannel returns a channel that is closed when credit comes back or the answer of reserve
// changes.
func (c *credits) roomChannel() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == nil {
		c.room = make(chan struct{})
	}
	return c.room
}

// wake makes every goroutine in reserve try again.
func (c *credits) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}
