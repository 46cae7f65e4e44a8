package jslog

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// Store is the checkpoint of a Log, in the same stream: values in buckets, between the batches, and
// a message that ends them. Until that is acknowledged the checkpoint before counts, and nothing is
// purged. The goroutine that takes checkpoints calls Replace to Commit, and Log.TruncateBefore; any
// goroutine reads.
type Store struct {
	log *Log

	lsn     atomic.Uint64 // what the last checkpoint is as of
	clockMS atomic.Uint64

	first  uint64 // sequence of the first bucket of the one that is taken now; 0: there is none
	keep   uint64 // sequence from which on the last one needs the stream; 0: not known
	bucket []byte // scratch of the one that is taken now
}

// bucketBytes is the size to which buckets grow, so that records do not wait long behind one.
const bucketBytes = 256 << 10

// Store is the checkpoint in the log.
func (l *Log) Store() *Store { return &l.store }

// found takes up the last checkpoint that Replay has found.
func (s *Store) found(c checkpoint) {
	s.lsn.Store(c.lsn)
	s.clockMS.Store(c.clockMS)
}

// Start does nothing.
func (s *Store) Start() error { return nil }

// InLog says that the values are in the log, where Replay finds them.
func (s *Store) InLog() bool { return true }

// LSN is what the checkpoint is as of; 0: there is none, or Replay has not run.
func (s *Store) LSN() uint64 { return s.lsn.Load() }

// Secret returns Options.Secret: the key of the partition's hashes is the same on each node.
func (s *Store) Secret(func() []byte) ([]byte, error) {
	if s.log.o.Secret == nil {
		return nil, errors.New("jslog: Options.Secret is missing")
	}
	return s.log.o.Secret, nil
}

// Load has nothing: Replay has the values.
func (s *Store) Load(_, _ []byte, _ func(key, value []byte) error) error { return nil }

// Room is always there: a stream that is full does not acknowledge.
func (s *Store) Room(int64) error { return nil }

// Replace appends the values of a range, in buckets, each behind the records that were appended
// before it. Each checkpoint has to replace all ranges. An error is the log's failure.
func (s *Store) Replace(_, _ []byte, items func(yield func(key, value []byte) bool)) (err error) {
	size := headerBytes + min(bucketBytes, s.log.o.BufferBytes)
	count := uint32(0)
	s.bucket = append(s.bucket[:0], make([]byte, headerBytes)...)
	items(func(_, value []byte) bool {
		if count > 0 && len(s.bucket)+itemOverhead+len(value) > size {
			err = s.send(count)
			count, s.bucket = 0, s.bucket[:headerBytes]
		}
		s.bucket = appendItem(s.bucket, value)
		count++
		return err == nil
	})
	if err != nil || count == 0 {
		return err
	}
	return s.send(count)
}

// send appends the bucket.
func (s *Store) send(count uint32) error {
	seq, err := s.log.appender.send(&parcel{kind: kindBucket, count: count, message: s.bucket})
	if err == nil && s.first == 0 {
		s.first = seq
	}
	return err
}

// Install does nothing: the buckets are where they belong.
func (s *Store) Install() error { return nil }

// Discard gives up the checkpoint that is taken now. Its buckets do no harm where they are.
func (s *Store) Discard() error {
	s.first, s.bucket = 0, nil
	return nil
}

// Commit ends the checkpoint: it is as of lsn, and of the last SetClock. An error is the log's
// failure.
func (s *Store) Commit(lsn uint64) error {
	c := checkpoint{lsn: lsn, clockMS: s.clockMS.Load(), firstBucket: s.first}
	message := c.append(make([]byte, headerBytes))
	seq, err := s.log.appender.send(&parcel{kind: kindCheckpoint, message: message})
	if err != nil {
		return err
	}
	if s.keep = s.first; s.keep == 0 {
		s.keep = seq
	}
	s.first, s.bucket = 0, nil
	s.lsn.Store(lsn)
	return nil
}

// SetClock is kept by the next Commit.
func (s *Store) SetClock(ms uint64) error {
	s.clockMS.Store(ms)
	return nil
}

// Clock returns the clock of the last checkpoint; 0: there is none.
func (s *Store) Clock() (ms uint64, err error) { return s.clockMS.Load(), nil }

// SetEpochs keeps nothing: which cursors are honoured is for the streams to know, which are not
// the partition's.
func (s *Store) SetEpochs([]byte) error { return nil }

// Epochs has none.
func (s *Store) Epochs() ([]byte, error) { return nil, nil }

// SetForgotten keeps nothing, as SetEpochs.
func (s *Store) SetForgotten([]byte) error { return nil }

// Forgotten has none.
func (s *Store) Forgotten() ([]byte, error) { return nil, nil }

// TruncateBefore purges what neither records with this LSN and above nor the last checkpoint need.
// One that comes late does no harm: what it takes away no later claim needs (C1). After Commit, on
// the same goroutine.
func (l *Log) TruncateBefore(lsn uint64) error {
	before := min(l.store.keep, l.marks.below(lsn))
	if before == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.o.AckTimeout)
	defer cancel()
	if err := l.stream.Purge(ctx, before); err != nil {
		return fmt.Errorf("jslog: purge below message %d: %w", before, err)
	}
	l.marks.purged(before)
	return nil
}
