package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// recovery is how far a recovery is, for the console and for /readyz.
type recovery struct {
	every         time.Duration // between two lines on the console; tests shorten it
	step          atomic.Int32
	parts, ranges atomic.Int64 // of the checkpoint: read, of how many
	stored        atomic.Int64 // devices in these parts
}

const (
	stepCheckpoint int32 = iota
	stepLog
)

// progress says how far the recovery is. Any goroutine.
func (e *Engine) progress() string {
	devices := e.table.Len()
	if e.recovery.step.Load() == stepCheckpoint {
		return fmt.Sprintf("reading the checkpoint, part %d of %d, %d devices so far", e.recovery.parts.Load(), e.recovery.ranges.Load(), devices)
	}
	next, done, total := e.log.Replayed()
	return fmt.Sprintf("replaying the log, record %d, %d of %d MiB, %d devices so far", max(next, 1)-1, done>>20, total>>20, devices)
}

// tellProgress logs the progress every second until it is stopped: a short recovery says nothing.
func (e *Engine) tellProgress() (stop func()) {
	done := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		ticker := time.NewTicker(e.recovery.every)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				e.opts.Logger.Info("recovering", "progress", e.progress())
			}
		}
	})
	return func() {
		close(done)
		telling.Wait()
	}
}
