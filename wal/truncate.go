package wal

import (
	"sync"
	"sync/atomic"
)

// truncator takes segments off the log from its old end. Any goroutine.
type truncator struct {
	dir      *directory
	segments *segments
	recycler *recycler

	open atomic.Bool // between Start and Close. Written by these
	mu   sync.Mutex  // held while segments are taken off
}

// TruncateBefore takes off the segments all of whose records are below lsn, oldest first; never the
// current one. What those records say must be on stable storage elsewhere. Any goroutine.
func (l *Log) TruncateBefore(lsn uint64) error { return l.truncator.before(lsn) }

func (t *truncator) before(lsn uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.open.Load() {
		s, ok := t.segments.oldestBefore(lsn)
		if !ok {
			return nil
		}
		kept, err := t.recycler.drop(s)
		if err != nil {
			return err
		}
		// One by one: a crash must never bring back an older segment without the one after it.
		if err := t.dir.sync(); err != nil {
			return err
		}
		t.segments.removeFirst()
		if kept != "" {
			t.recycler.keep(kept)
		}
	}
	return nil
}

// close waits for a before that is at work, and removes the files that were kept for nothing.
func (t *truncator) close() {
	t.open.Store(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.recycler.removeAll(); err != nil {
		t.dir.logger.Debug("recycled files stay behind", "err", err)
	}
}
