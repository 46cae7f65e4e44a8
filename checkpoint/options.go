package checkpoint

import (
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/option"
)

// Options of Open. The zero value works.
type Options struct {
	// FS holds the store. Default: vfs.Default.
	FS vfs.FS
	// SpareBytes must be free on the disk, beside what is to be written, for Room to say yes. Above
	// the size of the segments that the log may prepare meanwhile. Default: 256 MiB.
	SpareBytes int64
	// Rebuild says that the log beside the store reaches back to record 1, so that what is lost
	// with the store can be made again from it. A DamagedError says so.
	Rebuild bool
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// Check reports every problem of the options at once, as Open does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns a copy with every zero field filled in, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	option.Default(&o.SpareBytes, 256<<20)
	option.Default(&o.Logger, slog.Default())
	problems := option.Problems{Package: "checkpoint"}
	option.NotNegative(&problems, "SpareBytes", o.SpareBytes)
	return o, problems.Err()
}
