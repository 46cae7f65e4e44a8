package datadir

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/wal"
)

// Copied counts what Copy or Walk has done so far. Any goroutine may read it meanwhile.
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
	// copyBufferBytes makes the log's first segment, of four buffers, a small file.
	copyBufferBytes = 256 << 10
	// copySpareBytes is what a copy leaves free on its disk.
	copySpareBytes = 32 << 20
	// copyMaxWait is how long a copy waits for the disk to take what was appended, and for room on
	// it.
	copyMaxWait = time.Minute
)

// Copy writes what a view shows into dir, which must be empty or absent: the checkpoint, and a log
// that begins behind it. It reads as recovery reads and writes as a server writes, so it checks
// every checksum on the way, and the copy is a directory that was shut down in order. All of it is
// durable when Copy returns without an error. Damage in the view is an error; what was copied until
// then must not be used.
func Copy(v *View, dir string, logger *slog.Logger, done *Copied) error {
	return v.read(logger, func(old *wal.Log, from *checkpoint.Store, through uint64) (err error) {
		// As a server opens them: the log first, whose lock keeps others out.
		fresh, err := wal.Open(dir, wal.Options{
			FS: v.Base, Sync: wal.SyncNever, BufferBytes: copyBufferBytes, Logger: logger,
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, fresh.Close()) }() // which syncs
		id := uuid.New()                                         // a copy goes its own way
		if err := fresh.SetID(id); err != nil {
			return err
		}
		// Before anything else: no server starts on half a copy.
		if err := fresh.Begin(through); err != nil {
			return err
		}
		if from != nil {
			o := checkpoint.Options{FS: v.Base, SpareBytes: copySpareBytes, Logger: logger}
			at := v.Base.PathJoin(dir, CheckpointDir)
			if err := copyCheckpoint(from, at, o, id, done); err != nil {
				return err
			}
		}
		if err := fresh.Start(nil); err != nil {
			return err
		}
		if err := copyLog(old, fresh, through, done); err != nil {
			return err
		}
		fresh.Complete()
		return nil
	})
}

// Walk reads everything that Copy would copy, checksums and all, and counts it.
func (v *View) Walk(logger *slog.Logger, done *Copied) error {
	return v.read(logger, func(log *wal.Log, store *checkpoint.Store, through uint64) error {
		if store != nil {
			err := store.Load(nil, nil, func(key, value []byte) error {
				done.item(key, value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return log.Replay(through, func(_ uint64, record []byte) error {
			done.record(record)
			return nil
		})
	})
}

// read calls fn with what is in the view, and closes it again: the log; the checkpoint, nil when
// none was ever begun; and the LSN through which everything is in the checkpoint.
func (v *View) read(
	logger *slog.Logger, fn func(log *wal.Log, store *checkpoint.Store, through uint64) error,
) (err error) {
	log, err := v.Log(logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	store, err := v.Checkpoint(log, logger)
	if err != nil {
		return err
	}
	if store == nil {
		return fn(log, nil, 0)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return fn(log, store, store.LSN())
}

func copyCheckpoint(
	from *checkpoint.Store, dir string, o checkpoint.Options, id uuid.UUID, done *Copied,
) (err error) {
	to, err := checkpoint.Open(dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.SetID(id); err != nil {
		return err
	}
	return to.CopyFrom(from, done.item)
}

// copyLog appends the records above an LSN to a log that begins behind it, so that they keep their
// numbers.
func copyLog(from, to *wal.Log, after uint64, done *Copied) error {
	return from.Replay(after, func(lsn uint64, record []byte) error {
		if err := to.Reserve(len(record), copyMaxWait); err != nil {
			return err
		}
		if got := to.Append(record, 0); got != lsn {
			return fmt.Errorf("datadir: record %d became record %d in the copy", lsn, got)
		}
		to.Kick()
		done.record(record)
		return nil
	})
}
