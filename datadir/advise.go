package datadir

import (
	"errors"
	"fmt"

	"rollcall/checkpoint"
	"rollcall/wal"
)

// startOver is the last resort, which always works. Taking single files out of the directory does
// not: the checkpoint has seen what is in them.
const startOver = "move the directory away and start on an empty one: devices are known again " +
	"from their next heartbeat, with whatever seq it has"

// Advise adds to an error of a log or a checkpoint what an operator can do about it. Other errors,
// and nil, come back as they are.
func Advise(err error) error {
	var corrupt *wal.CorruptionError
	var missing *wal.MissingError
	var damaged *checkpoint.DamagedError
	var foreign *ForeignError
	var newerLog *wal.VersionError
	var newerStore *checkpoint.VersionError
	switch {
	case errors.As(err, &corrupt):
		return fmt.Errorf("%w. Restore %s from a backup. Without one, %s",
			err, corrupt.Dir, startOver)
	case errors.As(err, &missing):
		return fmt.Errorf("%w. Put the segments back, or restore the whole directory from a "+
			"backup. Without either, %s", err, startOver)
	case errors.As(err, &damaged) && damaged.Rebuild:
		return fmt.Errorf("%w. Restore the data directory from a backup. Or move %s away and start: "+
			"the log reaches back to record 1, and everything is made again from it",
			err, damaged.Dir)
	case errors.As(err, &damaged):
		return fmt.Errorf("%w. Restore the data directory from a backup. Without one, %s",
			err, startOver)
	case errors.As(err, &foreign):
		return fmt.Errorf("%w. Put the part back that belongs there, or restore the whole "+
			"directory from a backup", err)
	case errors.As(err, &newerLog), errors.As(err, &newerStore):
		return fmt.Errorf("%w; start the version that wrote it", err)
	case errors.Is(err, wal.ErrIncomplete):
		return fmt.Errorf("%w; remove it and make the backup again", err)
	case errors.Is(err, checkpoint.ErrFailed):
		return fmt.Errorf("%w; check the disk and start again, nothing acknowledged is lost", err)
	}
	return err
}
