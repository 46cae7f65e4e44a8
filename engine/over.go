package engine

import (
	"errors"
	"log/slog"
	"sync/atomic"
)

// ErrOverMaxDevices says that more devices came from disk than Options.MaxDevices or DeviceBudget
// allows. They are served; new ones are refused until enough are forgotten.
var ErrOverMaxDevices = errors.New("more devices are on disk than may be known")

// overBound says, once and as soon as it is so, that a recovery goes over the bound: where memory
// ends first, nothing can be said any more. Any goroutine may call note.
type overBound struct{ noted atomic.Bool }

func (o *overBound) note(r *recoverer) {
	if r.table.Over() == 0 || o.noted.Swap(true) {
		return
	}
	r.logger.Warn("the recovery goes over the bound of devices and needs more memory than was meant "+
		"for them; where there is none, the system kills the process",
		"error", ErrOverMaxDevices, "max_devices", r.table.MaxDevices(),
		"progress", r.progress.describe(r.devices))
}

// logOver says after a recovery how many devices too many there are.
func (d *devices) logOver(logger *slog.Logger) {
	over := d.table.Over()
	if over == 0 {
		return
	}
	logger.Warn("new devices are refused: more are known than may be; known ones go on, and new ones "+
		"come in again when enough are forgotten", "error", ErrOverMaxDevices,
		"devices", d.table.Len(), "max_devices", d.table.MaxDevices(), "over", over)
}
