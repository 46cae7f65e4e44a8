package wal

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Reader reads committed records while the log is appended to, and keeps TruncateBefore from taking
// off what it still wants, within a bound (W9). Many may read one log. One goroutine calls its
// methods.
//
//	 first                   from               committed
//	   ▼                       ▼                    ▼
//	┌───────────┬───────────┬───────────┬───────────┬─ ─ ─ ─ ─ ─ ┐
//	│ taken off │ kept for  │ kept for  │ current   │ prepared   │
//	│           │ the mark  │ both      │ segment   │            │
//	└───────────┴───────────┴───────────┴───────────┴─ ─ ─ ─ ─ ─ ┘
//	            └ at most keep bytes ┘▲ TruncateBefore: the checkpoint covers what is before
type Reader struct {
	log  *Log
	keep int64 // bytes of segments that are kept for this reader alone, at most

	from   uint64 // guarded by truncator.mu: the reader wants no record below
	number uint64 // guarded by truncator.mu: of the segment that is open; 0: none

	wake chan struct{} // one token: a batch was committed, or the log ended

	// Where the reader is: in an open segment, before the block that begins with record next.
	file   *segmentReader
	first  uint64 // LSN with which the segment begins
	offset int64  // of the block
	next   uint64 // first LSN of the block
	limit  uint64 // the segment holds the records below, as far as is known
}

// readerWindowBytes is what a Reader reads of a file at a time: it is often no more than one batch
// behind.
const readerWindowBytes = 64 << 10

// NewReader returns a reader that wants the records from an LSN on, 0 meaning all. Segments are
// kept for it beyond what TruncateBefore asks for, up to keep bytes; it loses the oldest ones
// beyond. After Open, and before Start where nothing may be taken off before it is there.
func (l *Log) NewReader(from uint64, keep int64) *Reader {
	r := &Reader{log: l, keep: keep, from: from, wake: make(chan struct{}, 1)}
	l.truncator.add(r)
	return r
}

// First is the lowest LSN that can be read.
func (r *Reader) First() uint64 { return r.log.First() }

// Committed is the highest LSN that can be read. 0 before Start.
func (r *Reader) Committed() uint64 { return r.log.Committed() }

// Sync is Log.Sync.
func (r *Reader) Sync(lsn uint64) error { return r.log.Sync(lsn) }

// Retain says that the reader wants no record below an LSN any more, and takes off what was kept
// for it alone.
func (r *Reader) Retain(from uint64) error { return r.log.truncator.retain(r, from) }

// Wait returns nil when the record with this LSN is committed. Otherwise it returns ctx's error, or
// why the record never will be committed.
func (r *Reader) Wait(ctx context.Context, lsn uint64) error {
	for r.log.Committed() < lsn {
		if end := r.log.progress.end.Load(); end != nil {
			if r.log.Committed() >= lsn { // stored for the last time before end
				return nil
			}
			return end.err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Read calls fn with the committed records from LSN from on, in order, and returns when there are
// no more for now, or at fn's first error. LSNs are dense, but for the beginning: when the record
// from is gone, the first one is the oldest that is there. A record is valid during the call.
func (r *Reader) Read(from uint64, fn func(lsn uint64, record []byte) error) error {
	from = max(from, 1)
	through := r.log.Committed()
	if r.file != nil {
		r.file.reread() // after through was loaded: what it covers was written before
	}
	for from <= through {
		if r.file == nil || from < r.next || from >= r.limit {
			var err error
			if from, err = r.seek(from, through); err != nil {
				return err
			}
			continue
		}
		b, err := r.block()
		if err != nil {
			return err
		}
		if err := b.each(from, fn); err != nil {
			return err
		}
		r.offset += b.bytes()
		r.next = b.last() + 1
		from = max(from, r.next)
	}
	return nil
}

// each calls fn with the block's records from LSN from on, until its first error.
func (b block) each(from uint64, fn func(lsn uint64, record []byte) error) error {
	lsn := b.first
	for record := range recordsIn(b.payload) {
		if lsn >= from {
			if err := fn(lsn, record); err != nil {
				return err
			}
		}
		lsn++
	}
	return nil
}

// block reads the block at the reader's place. It is committed, so it is there.
func (r *Reader) block() (block, error) {
	b, wrong, err := r.file.block(r.offset)
	if err != nil {
		return block{}, err
	}
	if wrong == nil && b.first != r.next {
		wrong = fmt.Errorf("the block there begins with record %d", b.first)
	}
	if wrong != nil {
		return block{}, r.log.dir.corrupt(r.file.number, r.offset, r.next, wrong)
	}
	return b, nil
}

// seek goes to the segment that holds record from, or to the oldest one if that is gone. It returns
// the LSN to go on with.
func (r *Reader) seek(from, through uint64) (uint64, error) {
	t := &r.log.truncator
	t.mu.Lock() // what is in the list stays until the segment is open
	defer t.mu.Unlock()
	all := r.log.segments.list()
	from = max(from, all[0].first)
	i := len(all) - 1
	for all[i].first > from {
		i--
	}
	if s := all[i]; r.file == nil || r.file.number != s.number {
		if err := r.openLocked(s); err != nil {
			return 0, err
		}
	}
	if from < r.next { // read again what was read before
		r.offset, r.next = segmentHeaderBytes, r.first
	}
	// A record that is committed is in a segment that is in the list.
	r.limit = through + 1
	if i+1 < len(all) {
		r.limit = min(r.limit, all[i+1].first)
	}
	return from, nil
}

// openLocked opens a segment in place of the one that is open. truncator.mu is held.
func (r *Reader) openLocked(s segmentName) error {
	if err := r.closeLocked(); err != nil {
		return err
	}
	file, err := r.log.dir.open(s.number)
	if err != nil {
		return err
	}
	file.window = readerWindowBytes
	r.file, r.number = file, s.number
	r.first, r.offset, r.next = s.first, segmentHeaderBytes, s.first
	return nil
}

func (r *Reader) closeLocked() error {
	if r.file == nil {
		return nil
	}
	err := r.file.close()
	r.file, r.number = nil, 0
	return err
}

// Close gives back what was kept for the reader. What it wanted is taken off with the next
// TruncateBefore.
func (r *Reader) Close() error { return r.log.truncator.remove(r) }

// readers are the readers of a log. Each turn signals them, the truncator keeps segments for
// them.
type readers struct {
	// all is replaced under truncator.mu, never changed. A turn loads it once per batch.
	all atomic.Pointer[[]*Reader]
}

func (rs *readers) list() []*Reader {
	if all := rs.all.Load(); all != nil {
		return *all
	}
	return nil
}

// signal leaves a token for each reader. It never blocks. Commit loop only.
func (rs *readers) signal() {
	for _, r := range rs.list() {
		select {
		case r.wake <- struct{}{}:
		default: // there is a token already
		}
	}
}
