package wal

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"rollcall/internal/dirlock"
)

// guard makes sure that the log's path leads to the directory that is locked (W11): that it was not
// removed, nor moved away and another one put in its place, and that LOCK was not taken for stale.
// PostgreSQL looks at its lock file for the same reason (AddToDataDirLockFile and
// RecheckDataDirLockFile, https://doxygen.postgresql.org/miscinit_8c.html).
//
// A log whose directory is another one fails for good. What finds it out wakes the commit loop,
// which alone lets the log fail. Any goroutine may call check and failure.
type guard struct {
	lock *dirlock.Lock // nil: the directory is only read
	wake func()        // wakes the commit loop

	moved  atomic.Pointer[outcome] // the first that was found. Pairs with the load in failure
	closed atomic.Bool             // the log is closed: where the path leads does not matter

	stop chan struct{} // closed when run is to end
	done chan struct{} // closed when run has ended; nil: it never ran
}

// guardEvery is how long what happens to the directory stays unnoticed, at most, while nothing is
// made or removed in it.
const guardEvery = time.Second

// check looks where the path leads, and returns an error, ErrMoved, when it is elsewhere or ever
// was.
func (g *guard) check() error {
	if g.lock == nil || g.closed.Load() {
		return g.failure()
	}
	if err := g.failure(); err != nil {
		return err
	}
	var moved *dirlock.MovedError
	if err := g.lock.Check(); errors.As(err, &moved) {
		g.fail(fmt.Errorf("%w: %w", ErrMoved, moved))
	}
	return g.failure()
}

// replaced lets the log fail for a file that is not the log's any more, unless the whole directory
// is not, which says more.
func (g *guard) replaced(err error) {
	if !g.closed.Load() && g.check() == nil {
		g.fail(fmt.Errorf("%w: %w", ErrReplaced, err))
	}
}

func (g *guard) fail(err error) {
	g.moved.CompareAndSwap(nil, &outcome{err})
	g.wake()
}

// failure returns what check or replaced found, at the cost of a load.
func (g *guard) failure() error {
	if moved := g.moved.Load(); moved != nil {
		return moved.err
	}
	return nil
}

// start lets run look from time to time.
func (g *guard) start() {
	g.stop, g.done = make(chan struct{}), make(chan struct{})
	go g.run()
}

// run looks until stop is closed or the path leads elsewhere.
func (g *guard) run() {
	defer close(g.done)
	ticker := time.NewTicker(guardEvery)
	defer ticker.Stop()
	for g.check() == nil {
		select {
		case <-g.stop:
			return
		case <-ticker.C:
		}
	}
}

// close ends run.
func (g *guard) close() {
	g.closed.Store(true)
	if g.done != nil {
		close(g.stop)
		<-g.done
	}
}
