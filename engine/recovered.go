package engine

import (
	"log/slog"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// Recovered is what recovery makes of a log and a store, for inspection: it writes nothing and
// serves nothing.
type Recovered struct {
	*devices
	recovery *recoverer
}

// Recover reads a log and a store, which may be nil, the way Start does. With an error, the table
// is as it was at the damage.
func Recover(log Log, store Store, logger *slog.Logger) (*Recovered, error) {
	o, err := Options{Store: store, Logger: logger}.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := newDevices(log, &o)
	if err != nil {
		return nil, err
	}
	r := newRecoverer(d, newExpirer(d, &o), newCheckpointer(d, &o), &o)
	return &Recovered{d, r}, r.recover(o.Clock())
}

// Devices returns how many devices are known, and how many of these are online.
func (r *Recovered) Devices() (all, online int) {
	r.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		if s, ok := entry.Load(); ok && s.Online {
			online++
		}
		return true
	})
	return r.table.Len(), online
}

// Stored returns how many devices the store holds.
func (r *Recovered) Stored() int { return int(r.recovery.progress.stored.Load()) }

// Range calls fn for each device until it returns false.
func (r *Recovered) Range(fn func(Device) bool) {
	r.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		rec, ok := r.record(entry)
		return !ok || fn(rec)
	})
}

// User calls fn for each device of one user until it returns false.
func (r *Recovered) User(user uuid.UUID, fn func(Device) bool) { r.eachDevice(user, fn) }

// Close gives the memory back.
func (r *Recovered) Close() { r.table.Close() }
