package wal

import (
	"slices"
	"sync"
	"sync/atomic"
)

// truncator takes segments off the log from its old end. Any goroutine.
type truncator struct {
	dir      *directory
	segments *segments
	control  *control
	recycler *recycler
	readers  *readers

	open atomic.Bool // between Start and Close. Written by these

	mu  sync.Mutex // held while segments are taken off
	cut uint64     // guarded by mu: the highest LSN that TruncateBefore was called with
}

// TruncateBefore takes off the segments all of whose records are below lsn, oldest first; never the
// current one, and none that a Reader wants within its bound (W9). What those records say must be
// on stable storage elsewhere. Any goroutine.
func (l *Log) TruncateBefore(lsn uint64) error { return l.truncator.before(lsn) }

func (t *truncator) before(lsn uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open.Load() && lsn > t.cut {
		if err := t.control.covered(lsn - 1); err != nil {
			return err
		}
		t.cut = lsn
	}
	return t.truncateLocked()
}

// truncateLocked goes by one look at the list: a segment that is begun meanwhile would make the one
// before it look superfluous to the cut, and be unknown to the readers' low-water marks.
func (t *truncator) truncateLocked() error {
	all := t.segments.list()
	low := t.cut
	for _, r := range t.readers.list() {
		low = min(low, r.lowWaterLocked(all, t.cut))
	}
	for t.open.Load() && len(all) > 1 && all[1].first <= low {
		if err := t.dir.guard.check(); err != nil {
			return err
		}
		s := all[0]
		kept, err := t.recycler.drop(s, t.isOpenLocked(s.number))
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
		all = all[1:]
	}
	return nil
}

// lowWaterLocked returns the first LSN of the oldest segment that is kept for the reader, cut if
// none is. It goes from the newest segment that the cut would take off to older ones, as long as
// the reader wants them and they are within its bound.
func (r *Reader) lowWaterLocked(all []segmentName, cut uint64) uint64 {
	low, kept := cut, int64(0)
	for i := len(all) - 2; i >= 0; i-- {
		end := all[i+1].first
		if end > cut {
			continue // it stays anyway
		}
		if kept += all[i].size; end <= r.from || kept > r.keep {
			break
		}
		low = all[i].first
	}
	return low
}

// isOpenLocked reports whether a reader has the segment open.
func (t *truncator) isOpenLocked(number uint64) bool {
	return slices.ContainsFunc(t.readers.list(), func(r *Reader) bool { return r.number == number })
}

// retain moves a reader's mark up.
func (t *truncator) retain(r *Reader, from uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.from = max(r.from, from)
	return t.truncateLocked()
}

func (t *truncator) add(r *Reader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := append(slices.Clone(t.readers.list()), r)
	t.readers.all.Store(&all)
}

func (t *truncator) remove(r *Reader) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(t.readers.list()), func(x *Reader) bool { return x == r })
	t.readers.all.Store(&all)
	return r.closeLocked()
}

// close waits for a truncation in progress, and removes the files that were kept to be recycled.
func (t *truncator) close() {
	t.open.Store(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir.guard.check() != nil {
		return // they are another's
	}
	if err := t.recycler.removeAll(); err != nil {
		t.dir.logger.Debug("recycled files stay behind", "err", err)
	}
}
