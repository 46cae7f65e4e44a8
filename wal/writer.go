package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writer puts blocks into segments, syncs them and rolls from one to the next. Guarded by
// committer.turns, and Start's before it. It alone stores durable (W3), and it keeps W4: everything
// in a segment is durable before the next one's header is written.
type writer struct {
	dir      *directory
	segments *segments
	control  *control
	gate     *gate
	spares   <-chan *segment // from the preparer
	closing  <-chan struct{} // closed by Close
	retry    time.Duration   // between the preparer's attempts
	mode     SyncMode
	interval time.Duration // of SyncInterval
	progress *progress
	stats    *counters

	// writeBack begins to write a part of a file back; tests replace it.
	writeBack func(f vfs.File, offset, n int64)

	segment  *segment
	sums     headerSums
	written  uint64      // last LSN handed to the operating system; the batch in flight is above it
	unsynced time.Time   // when the oldest unsynced block was written; zero: all is synced
	timer    *time.Timer // SyncInterval: fires when the oldest unsynced block is due, else stopped
}

// beginFirst begins the first segment of this life, whose file lies under freshName, for records
// from first on. It appears under its name with its header in it, so that no crash leaves the
// directory without a segment: that would look like a log that was taken away.
func (w *writer) beginFirst(s *segment, first uint64) error {
	w.segment, w.written = s, first-1
	w.timer = time.NewTimer(time.Hour)
	w.timer.Stop()
	w.gate.addPrepared()
	if err := s.begin(first, w.control.known().id); err != nil {
		return errors.Join(err, s.file.Close())
	}
	fresh := w.dir.join(freshName)
	if err := w.dir.fs.Rename(fresh, w.dir.segment(s.number)); err != nil {
		err = fmt.Errorf("wal: rename %s to segment %d: %w", fresh, s.number, err)
		return errors.Join(err, s.file.Close())
	}
	if err := w.dir.sync(); err != nil {
		return errors.Join(err, s.file.Close())
	}
	if err := w.enter(s, first); err != nil {
		return errors.Join(err, s.file.Close())
	}
	return nil
}

// enter makes a segment whose header is durable the current one: before its first block the control
// file names it (W10).
func (w *writer) enter(s *segment, first uint64) error {
	name := segmentName{number: s.number, first: first, size: s.size, made: s.size}
	if err := w.control.begun(name); err != nil {
		return err
	}
	w.segments.add(name)
	w.gate.begin(s.left())
	return nil
}

// write frames a sealed batch as one block and hands it to the operating system.
func (w *writer) write(b *batch) error {
	size := blockBytes(int64(b.bytes))
	if err := w.roll(size); err != nil {
		return err
	}
	block, payload := b.block[:size], b.payload[:b.bytes]
	clear(block[blockHeaderBytes+b.bytes:]) // the padding
	w.sums.encode(block, blockHeader{
		payloadSum:   crc32.Checksum(payload, castagnoli),
		payloadBytes: uint32(b.bytes),
		records:      uint32(b.records),
		first:        b.first,
		durable:      w.progress.durable.Load(),
	}, w.segment.number, w.segment.used)
	if err := w.segment.write(block); err != nil {
		return err
	}
	w.written = b.last()
	w.noteUnsynced()
	w.beginWriteBack()
	w.gate.write(w.segment.left())
	return nil
}

// writeBackBytes is how much is written without a sync before the operating system is asked to
// begin with it, and pageBytes what it writes at least.
const (
	writeBackBytes = 512 << 10
	pageBytes      = 4 << 10
)

// beginWriteBack has the disk busy while a segment fills, in the modes that do not sync each batch.
// Otherwise the sync at its end (W4) has all of it left to write, and the commit loop waits.
func (w *writer) beginWriteBack() {
	if w.mode == SyncAlways {
		return
	}
	from, to := w.segment.writtenBack, w.segment.used/pageBytes*pageBytes
	if to-from >= writeBackBytes {
		w.writeBack(w.segment.file, from, to-from)
		w.segment.writtenBack = to
	}
}

// noteUnsynced remembers that the segment has bytes to sync, and starts the interval's clock.
func (w *writer) noteUnsynced() {
	if w.unsynced.IsZero() {
		w.unsynced = time.Now()
		if w.mode == SyncInterval {
			w.timer.Reset(w.interval)
		}
	}
}

// due reports whether the interval of SyncInterval is over.
func (w *writer) due() bool {
	return w.mode == SyncInterval && !w.unsynced.IsZero() && time.Since(w.unsynced) >= w.interval
}

// sync makes everything that was written durable.
func (w *writer) sync() error {
	if w.unsynced.IsZero() {
		return nil
	}
	began := time.Now()
	if err := w.segment.sync(); err != nil {
		return err
	}
	w.stats.addSync(time.Since(began))
	w.unsynced = time.Time{}
	w.timer.Stop()
	w.progress.durable.Store(w.written)
	return nil
}

// roll makes sure that a block of this size fits into the current segment, else it begins the
// prepared one. Room for an empty block is always left over, for finish.
func (w *writer) roll(size int64) error {
	if size+blockHeaderBytes <= w.segment.left() {
		return nil
	}
	// In every mode: the next segment's first LSN must never be on disk while records before it are
	// not, or recovery would take the gap for damage (W4).
	if err := w.sync(); err != nil {
		return err
	}
	next, err := w.awaitSpare()
	if err != nil {
		return err
	}
	if err := w.dir.guard.check(); err != nil {
		return errors.Join(err, next.file.Close())
	}
	old := w.segment
	w.segment = next
	if err := old.file.Close(); err != nil {
		return fmt.Errorf("wal: close segment %d: %w", old.number, reason(err))
	}
	if err := next.begin(w.written+1, w.control.known().id); err != nil {
		return err
	}
	return w.enter(next, w.written+1)
}

// awaitSpare returns the prepared segment. The gate shuts long before the current segment is full,
// so waiting here is rare. It holds up waiters, not appenders: those are bounded by their credits.
func (w *writer) awaitSpare() (*segment, error) {
	select {
	case s := <-w.spares:
		return s, nil
	case <-w.closing:
	}
	timer := time.NewTimer(2 * w.retry) // closing: one more attempt, no more
	defer timer.Stop()
	select {
	case s := <-w.spares:
		return s, nil
	case <-timer.C:
		return nil, fmt.Errorf("wal: close: %w", ErrNoSpace)
	}
}

// finish ends the segment with an empty block that promises everything before it durable, and says
// in the control file where the log ends. A flipped bit in the last batch, or a file that was cut,
// is then seen as damage; without them it would look like the torn tail of a crash.
func (w *writer) finish() error {
	if err := w.sync(); err != nil {
		return err
	}
	block := make([]byte, blockHeaderBytes)
	h := blockHeader{first: w.written + 1, durable: w.progress.durable.Load()}
	w.sums.encode(block, h, w.segment.number, w.segment.used)
	if err := w.segment.write(block); err != nil {
		return err
	}
	w.noteUnsynced()
	if err := w.sync(); err != nil {
		return err
	}
	return w.control.ended(w.progress.durable.Load())
}

func (w *writer) close() error {
	if w.segment == nil {
		return nil
	}
	return w.segment.file.Close()
}
