package wal

import (
	"fmt"
	"hash/crc32"
	"runtime"
	"time"
)

// writer is what the commit loop alone knows: where the next block goes and what is not synced yet.
type writer struct {
	segment  *segment
	sums     summer
	written  uint64      // last LSN handed to the operating system; the batch being written is above it
	wrote    time.Time   // when the last block was written
	unsynced time.Time   // when the oldest unsynced block was written; zero: all is synced
	timer    *time.Timer // SyncInterval: fires when the oldest unsynced block is due; stopped otherwise
}

func (w *writer) close() error {
	if w.segment == nil {
		return nil
	}
	return w.segment.file.Close()
}

// commitLoop is the only writer of the log. Each turn takes whatever was appended during the last one: there is no
// timer in SyncAlways, the sync itself is the clock. It ends when Close was called and every credit has come home, or
// at the first failure (W5).
func (l *Log) commitLoop() {
	defer close(l.loopDone)
	for l.awaitWork() {
		if err := l.turn(); err != nil {
			l.fail(err)
			return
		}
	}
	if err := l.finish(); err != nil {
		l.fail(err)
		return
	}
	l.endWith(ErrClosed)
}

// awaitWork parks until there is something to do; false: closed, and all is done.
func (l *Log) awaitWork() bool {
	for {
		if l.state.Load()&bytesMask != 0 || l.syncDue() {
			return true
		}
		closing := l.closing
		select {
		case <-closing:
			// The bias is in: no new credit. With all of it home nothing is appended and nobody can append (W2).
			if credits(l.credit.Load()) == int64(l.o.BufferBytes) {
				return false
			}
			closing = nil
		default:
		}
		select {
		case <-l.wake:
		case <-l.writer.timer.C:
		case <-closing:
		}
	}
}

// syncDue says whether somebody asked for a sync or, in SyncInterval, the interval is over.
func (l *Log) syncDue() bool {
	if l.o.Sync == SyncAlways {
		return false
	}
	if l.o.Sync == SyncInterval && !l.writer.unsynced.IsZero() && time.Since(l.writer.unsynced) >= l.o.SyncInterval {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.syncers) > 0
}

// turn commits one batch, if there is one, and syncs when it is time.
func (l *Log) turn() error {
	// Taken before sealing: what they appended before they asked is in this batch or an earlier one.
	syncers := l.takeSyncers()
	l.gather()
	began := time.Now()
	l.committing.Store(int64(began.Sub(l.epoch)) | 1)
	defer l.committing.Store(0)
	b := l.seal()
	if b != nil {
		if err := l.write(b); err != nil {
			return err
		}
	}
	if l.o.Sync == SyncAlways || len(syncers) > 0 || l.syncDue() {
		if err := l.sync(); err != nil {
			return err
		}
	}
	if b != nil {
		l.publish(b, time.Since(began))
	}
	for _, done := range syncers {
		done <- nil
	}
	return nil
}

// maxYields bounds how often a turn lets others append before it seals; after quietYields that brought nothing it stops. It also
// stops after maxYielding, since who is ready may have more to do than to append, and when the batch has enoughBytes, whose
// write and sync take no longer than those of a few.
const (
	maxYields, quietYields = 16, 4
	maxYielding            = 100 * time.Microsecond
	enoughBytes            = 16 << 10
)

// writePause is the time between two writes when nobody waits for them. Each costs some ten microseconds however small it
// is, and streams do not mind a millisecond.
const writePause = time.Millisecond

// gather makes the batch larger before it is sealed. Where nobody waits for its commit it takes writePause, unless the
// buffer fills.
//
// In SyncAlways it lets goroutines that are ready to run append first, as long as that makes the batch grow. A batch costs a
// write, a sync and a wake-up however many records it has, and on few processors the ready ones are its own late members:
// woken by the batch before, they would wait for the next one. On an idle machine the yields take a microsecond.
func (l *Log) gather() {
	if l.o.Sync != SyncAlways {
		if pause := writePause - time.Since(l.writer.wrote); pause > 0 && l.state.Load()&bytesMask < uint64(l.o.BufferBytes/2) {
			time.Sleep(pause)
		}
		return
	}
	quiet, began := 0, time.Now()
	for i := 0; i < maxYields && quiet < quietYields && time.Since(began) < maxYielding; i++ {
		before := l.state.Load()
		if before&bytesMask >= enoughBytes {
			return
		}
		runtime.Gosched()
		if l.state.Load() == before {
			quiet++
		}
	}
}

func (l *Log) takeSyncers() []chan error {
	if l.o.Sync == SyncAlways {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	syncers := l.syncers
	l.syncers = nil
	return syncers
}

// write frames a sealed batch as one block and hands it to the operating system.
func (l *Log) write(b *batch) error {
	size := blockBytes(int64(b.bytes))
	if err := l.roll(size); err != nil {
		return err
	}
	w := &l.writer
	block, payload := b.block[:size], b.payload[:b.bytes]
	clear(block[blockHeaderBytes+b.bytes:]) // the padding
	w.sums.encode(block, blockHeader{
		payloadSum:   crc32.Checksum(payload, castagnoli),
		payloadBytes: uint32(b.bytes),
		records:      uint32(b.records),
		first:        b.first,
		durable:      l.durable.Load(),
	}, w.segment.number, w.segment.used)
	if err := w.segment.write(block); err != nil {
		return err
	}
	w.written = b.last()
	l.noteUnsynced()
	l.updateGate(w.segment.left())
	return nil
}

// noteUnsynced remembers that the segment has bytes to sync, and starts the interval's clock.
func (l *Log) noteUnsynced() {
	if w := &l.writer; w.unsynced.IsZero() {
		w.unsynced = time.Now()
		if l.o.Sync == SyncInterval {
			w.timer.Reset(l.o.SyncInterval)
		}
	}
}

// sync makes everything that was written durable.
func (l *Log) sync() error {
	w := &l.writer
	if w.unsynced.IsZero() {
		return nil
	}
	began := time.Now()
	if err := w.segment.sync(); err != nil {
		return err
	}
	took := time.Since(began)
	l.stats.syncs.Add(1)
	l.stats.syncNanos.Add(uint64(took))
	l.stats.lastSyncNanos.Store(uint64(took))
	w.unsynced = time.Time{}
	w.timer.Stop()
	l.durable.Store(w.written)
	return nil
}

// publish moves the committed LSN, wakes the batch's waiters at once and tells the owner.
func (l *Log) publish(b *batch, took time.Duration) {
	last := b.last()
	l.committed.Store(last)
	close(b.done) // after durable was stored: whoever wakes sees it
	l.stats.batches.Add(1)
	l.stats.records.Add(b.records)
	l.stats.payloadBytes.Add(uint64(b.bytes))
	if observe := l.o.ObserveCommit; observe != nil {
		observe(b.records, took)
	}
	if l.committedFunc != nil {
		l.committedFunc(b.first, last, b.all, took)
	}
}

// roll makes sure that a block of this size fits into the current segment, else it begins the prepared one. Room for
// an empty block is always left over, for Close.
func (l *Log) roll(size int64) error {
	w := &l.writer
	if size+blockHeaderBytes <= w.segment.left() {
		return nil
	}
	// In every mode: the next segment's first LSN must never be on disk while records before it are not, or recovery
	// would take the gap for damage (W4).
	if err := l.sync(); err != nil {
		return err
	}
	next, err := l.awaitSpare()
	if err != nil {
		return err
	}
	old := w.segment
	w.segment = next
	if err := old.file.Close(); err != nil {
		return fmt.Errorf("wal: close segment %d: %w", old.number, err)
	}
	return l.begin(next, w.written+1)
}

// begin writes and syncs a segment's header. It is durable before the first block, so a block in a segment without
// a valid header is damage, never the trace of a crash (W4).
func (l *Log) begin(s *segment, first uint64) error {
	if err := s.begin(first); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, segmentName{number: s.number, first: first, size: s.size})
	l.used++
	l.roomLeft = s.left()
	l.updateGateLocked()
	return nil
}

// awaitSpare returns the prepared segment. The gate (see updateGate) closes long before the current segment is full,
// so waiting here is rare. It holds up waiters, not appenders: those are bounded by their credits.
func (l *Log) awaitSpare() (*segment, error) {
	select {
	case s := <-l.spares:
		return s, nil
	case <-l.closing:
	}
	timer := time.NewTimer(2 * l.o.prepareRetry) // closing: one more attempt, no more
	defer timer.Stop()
	select {
	case s := <-l.spares:
		return s, nil
	case <-timer.C:
		return nil, fmt.Errorf("wal: close: %w", ErrNoSpace)
	}
}

// fail makes the log fail-stop (W5): nothing after this is acknowledged, and no write is retried, because a second
// sync may report success for pages that the kernel dropped after the first one failed.
func (l *Log) fail(err error) {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	l.o.Logger.Error("write-ahead log failed; nothing more is acknowledged", "dir", l.dir, "durable", l.durable.Load(), "err", err)
	l.credit.Add(-biasFailed)
	l.endWith(err)
	close(l.failed)
}

// endWith tells every waiter, now and later, that nothing more will be committed.
func (l *Log) endWith(err error) {
	l.end.Store(&outcome{err})
	w := l.waiting.Load()
	closeOnce(w.inFlight)
	closeOnce(w.filling)
	l.wakeReservers()
}

// closeOnce closes a channel that only the calling goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// finish ends the segment with an empty block that promises everything before it durable. A flipped bit in the last
// batch is then seen as damage; without it, it would look like the torn tail of a crash.
func (l *Log) finish() error {
	if err := l.sync(); err != nil {
		return err
	}
	w := &l.writer
	block := make([]byte, blockHeaderBytes)
	w.sums.encode(block, blockHeader{first: w.written + 1, durable: l.durable.Load()}, w.segment.number, w.segment.used)
	if err := w.segment.write(block); err != nil {
		return err
	}
	l.noteUnsynced()
	return l.sync()
}
