package datadir

import (
	"errors"
	"log/slog"

	"github.com/google/uuid"

	"rollcall/internal/rootfs"
	"rollcall/wal"
)

// Write makes a data directory in dir, which must be empty or absent, of records that come from
// elsewhere: a log without a checkpoint, from which recovery makes everything. records calls add
// for each of them, which keeps nothing of it. All of it is durable when Write returns without an
// error, and the directory is one that was shut down in order; until then no server starts on it.
func Write(
	dir string, logger *slog.Logger, done *Copied,
	records func(add func(record []byte) error) error,
) (err error) {
	files := rootfs.New(dir)
	defer func() { err = errors.Join(err, files.Close()) }()
	fresh, err := wal.Open(dir, wal.Options{
		FS: files, Sync: wal.SyncNever, BufferBytes: copyBufferBytes, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }() // which syncs
	if err := fresh.SetID(uuid.New()); err != nil {
		return err
	}
	if err := fresh.Begin(0); err != nil {
		return err
	}
	if err := fresh.Start(nil); err != nil {
		return err
	}
	err = records(func(record []byte) error {
		if err := fresh.Reserve(len(record), copyMaxWait); err != nil {
			return err
		}
		fresh.Append(record, 0)
		fresh.Kick()
		done.record(record)
		return nil
	})
	if err != nil {
		return err
	}
	fresh.Complete()
	return nil
}
