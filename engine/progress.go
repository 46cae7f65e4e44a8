package engine

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// progress is how far a start is, for the console and for Ready. Any goroutine may read it;
// recovery writes it.
type progress struct {
	every         time.Duration // between two lines on the console; tests shorten it
	step          atomic.Int32
	parts, ranges atomic.Int64 // of the checkpoint: read, of how many
	stored        atomic.Int64 // devices in these parts
}

const (
	stepCheckpoint int32 = iota
	stepLog
	stepDisk // everything is read, and the first files are written
)

// describe says how far the start is.
func (p *progress) describe(d *devices) string {
	devices := d.table.Len()
	switch p.step.Load() {
	case stepDisk:
		return fmt.Sprintf("everything is read, %d devices; waiting for the disk to take the first "+
			"files", devices)
	case stepCheckpoint:
		return fmt.Sprintf("reading the checkpoint, part %d of %d, %d devices so far",
			p.parts.Load(), p.ranges.Load(), devices)
	}
	next, done, total := d.log.Replayed()
	return fmt.Sprintf("replaying the log, record %d, %d of %d MiB, %d devices so far",
		max(next, 1)-1, done>>20, total>>20, devices)
}

// report logs the progress every second until it is stopped: a short start logs nothing.
func (p *progress) report(d *devices, logger *slog.Logger) (stop func()) {
	done := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() {
		ticker := time.NewTicker(p.every)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				logger.Info("recovering", "progress", p.describe(d))
			}
		}
	})
	return func() {
		close(done)
		reporting.Wait()
	}
}
