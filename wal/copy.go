package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// Copied counts what Copy has done so far. Any goroutine may read it meanwhile.
type Copied struct {
	Items   atomic.Uint64 // keys of the checkpoint
	Records atomic.Uint64 // of the log
	Bytes   atomic.Int64  // of both
}

func (c *Copied) item(key, value []byte) {
	c.Items.Add(1)
	c.Bytes.Add(int64(len(key) + len(value)))
}

func (c *Copied) record(record []byte) {
	c.Records.Add(1)
	c.Bytes.Add(int64(len(record)))
}

const (
	// copyBytes is how much of a checkpoint is copied as one sorted table, and held in memory for it.
	copyBytes = 4 << 20
	// copyBufferBytes makes the log's first segment, of four buffers, a small file.
	copyBufferBytes = 256 << 10
	// copySpareBytes is what a copy leaves free on its disk.
	copySpareBytes = 32 << 20
	// copyPatience is how long a copy waits for the disk to take what was appended, and for room on it.
	copyPatience = time.Minute
)

// Copy writes what a view shows into dir, which must be empty or absent: the checkpoint, and a log that begins behind it. It is
// read as recovery reads and written as a server writes, so every checksum is looked at on the way, and the copy is a
// directory that was shut down in order. All of it is durable when Copy returns without an error. Damage in the view is
// an error; what was copied until then must not be used.
func Copy(v *View, dir string, logger *slog.Logger, done *Copied) (err error) {
	through := uint64(0)
	from, err := v.Checkpoint(logger)
	if err != nil {
		return err
	}
	if from != nil {
		defer func() { err = errors.Join(err, from.Close()) }()
		through = from.LSN()
	}
	old, err := v.Log(logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	// As a server opens them: the log first, whose lock keeps others out.
	fresh, err := Open(dir, Options{FS: v.base, Sync: SyncNever, BufferBytes: copyBufferBytes, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }() // which syncs
	if from != nil {
		o := CheckpointOptions{FS: v.base, SpareBytes: copySpareBytes, Logger: logger}
		if err := copyCheckpoint(from, v.base.PathJoin(dir, CheckpointDir), o, done); err != nil {
			return err
		}
	}
	if err := fresh.Begin(through); err != nil {
		return err
	}
	if err := fresh.Start(nil); err != nil {
		return err
	}
	return copyLog(old, fresh, through, done)
}

// Walk reads everything that Copy would copy, checksums and all, and counts it.
func (v *View) Walk(logger *slog.Logger, done *Copied) (err error) {
	through := uint64(0)
	store, err := v.Checkpoint(logger)
	if err != nil {
		return err
	}
	if store != nil {
		defer func() { err = errors.Join(err, store.Close()) }()
		through = store.LSN()
		if err := store.Load(nil, nil, func(key, value []byte) error { done.item(key, value); return nil }); err != nil {
			return err
		}
	}
	log, err := v.Log(logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return log.Replay(through, func(_ uint64, record []byte) error { done.record(record); return nil })
}

// copyCheckpoint copies a checkpoint a table at a time.
func copyCheckpoint(from *Checkpoint, dir string, o CheckpointOptions, done *Copied) (err error) {
	to, err := OpenCheckpoint(dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	secret, err := from.get(checkpointSecretKey)
	if err != nil {
		return err
	}
	if secret != nil {
		if err := to.set(checkpointSecretKey, secret); err != nil {
			return err
		}
	}
	var lo []byte
	var table tableBuffer
	err = from.Load(nil, nil, func(key, value []byte) error {
		if table.size >= copyBytes {
			if err := to.copyTable(lo, key, &table); err != nil {
				return err
			}
			lo = slices.Clone(key)
		}
		table.add(key, value)
		done.item(key, value)
		return nil
	})
	if err != nil {
		return err
	}
	if err := to.copyTable(lo, nil, &table); err != nil {
		return err
	}
	return to.Commit(from.LSN())
}

// tableBuffer holds the keys and values of one table.
type tableBuffer struct {
	pairs [][2][]byte
	size  int
}

func (b *tableBuffer) add(key, value []byte) {
	b.pairs = append(b.pairs, [2][]byte{slices.Clone(key), slices.Clone(value)})
	b.size += len(key) + len(value)
}

// copyTable empties the buffer into [lo, hi).
func (c *Checkpoint) copyTable(lo, hi []byte, b *tableBuffer) error {
	if err := c.Room(int64(b.size)); err != nil {
		return err
	}
	err := c.Replace(lo, hi, func(yield func(key, value []byte) bool) {
		for _, p := range b.pairs {
			if !yield(p[0], p[1]) {
				return
			}
		}
	})
	*b = tableBuffer{pairs: b.pairs[:0]}
	return err
}

// copyLog appends the records above an LSN to a log that begins behind it, so that they keep their numbers.
func copyLog(from, to *Log, after uint64, done *Copied) error {
	return from.Replay(after, func(lsn uint64, record []byte) error {
		if err := to.Reserve(len(record), copyPatience); err != nil {
			return err
		}
		if got := to.Append(record); got != lsn {
			return fmt.Errorf("wal: record %d became record %d in the copy", lsn, got)
		}
		done.record(record)
		return nil
	})
}
