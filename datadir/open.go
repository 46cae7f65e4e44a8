package datadir

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/wal"
)

// ForeignError says that the log and the checkpoint of a directory are parts of different ones: one
// of them was put there from another server, or from another backup.
type ForeignError struct {
	Dir        string
	Log, Store uuid.UUID // the directories that they belong to
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("datadir: %s: the log is of the data directory with the id %s, but its "+
		"checkpoint (%s) is of the one with the id %s: they are parts of different servers",
		e.Dir, e.Log, CheckpointDir, e.Store)
}

// Open locks a data directory and opens its log, and then the checkpoint beside it. It compares the
// two: a *ForeignError says that they do not belong together, a *checkpoint.DamagedError that the
// checkpoint is missing, damaged, or older than the log was shortened for. Whatever is wrong, no
// file is changed, and nothing is as long as neither is started. The parts get an id, the same one,
// which they write when they are started.
func Open(
	dir string, lo wal.Options, so checkpoint.Options,
) (_ *wal.Log, _ *checkpoint.Store, err error) {
	log, err := wal.Open(dir, lo)
	if err != nil {
		return nil, nil, err
	}
	so.Rebuild = log.First() == 1
	store, err := checkpoint.Open(join(so.FS, dir, CheckpointDir), so)
	if err != nil {
		return nil, nil, errors.Join(err, log.Close())
	}
	err = match(dir, log, store, so)
	if err == nil {
		err = adopt(log, store)
	}
	if err != nil {
		return nil, nil, errors.Join(err, store.Close(), log.Close())
	}
	warnOfOlder(dir, log, store, so.Logger)
	return log, store, nil
}

// warnOfOlder says that the log takes the place of a checkpoint that was there.
func warnOfOlder(dir string, log *wal.Log, store *checkpoint.Store, logger *slog.Logger) {
	if store.LSN() >= log.Cut() {
		return
	}
	if logger == nil {
		logger = slog.Default()
	}
	if !store.Exists() {
		logger.Warn("the checkpoint is missing; the log reaches back to record 1, and everything "+
			"is made again from it", "dir", dir, "checkpoint_lsn", log.Cut())
		return
	}
	logger.Warn("the checkpoint is not the newest one; the log reaches back to it, and everything "+
		"behind it is made again from the log", "dir", dir, "lsn", store.LSN(),
		"newest_lsn", log.Cut())
}

// adopt gives the part that has no id the other one's, or both a new one.
func adopt(log *wal.Log, store *checkpoint.Store) error {
	id := log.ID()
	if id == uuid.Nil {
		id = store.ID()
	}
	if id == uuid.Nil {
		id = uuid.New()
	}
	return errors.Join(log.SetID(id), store.SetID(id))
}

// match finds out whether log and checkpoint belong together, before either is read.
//
// The log gives segments up when a checkpoint holds what is in them, and says through which LSN
// (Cut). So a checkpoint that is older, or none, is not the one that was there. It will do while
// the log still reaches back to it, as it does after a start without a checkpoint, which begins a
// new one as of LSN 0. Where records are missing for which no checkpoint ever stood, segments are:
// Replay says which.
func match(dir string, log *wal.Log, store *checkpoint.Store, so checkpoint.Options) error {
	if l, s := log.ID(), store.ID(); l != s && l != uuid.Nil && s != uuid.Nil {
		return &ForeignError{Dir: dir, Log: l, Store: s}
	}
	first, cut := log.First(), log.Cut()
	held := max(cut, 1) // through which LSN there was a checkpoint at least
	var wrong error
	switch {
	case !store.Exists() && first > 1 && (cut == 0 || first <= cut+1):
		held = max(cut, first-1)
		wrong = fmt.Errorf("it is missing, and the log begins with record %d", first)
	case store.Exists() && store.LSN() < cut && first > store.LSN()+1:
		wrong = fmt.Errorf("it is as of record %d: it is older than the one for which the log was "+
			"shortened", store.LSN())
	default:
		return nil
	}
	path := join(so.FS, dir, CheckpointDir)
	return &checkpoint.DamagedError{
		Path: path, Dir: path, Err: wrong, Rebuild: first == 1,
		What: fmt.Sprintf("every device as of record %d or later", held),
	}
}

// join joins a path in a file system, which may be nil.
func join(fsys vfs.FS, elements ...string) string {
	if fsys == nil {
		fsys = vfs.Default
	}
	return fsys.PathJoin(elements...)
}
