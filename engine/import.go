package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/record"
)

// importMaxWait is how long an imported record waits for room in the log.
const importMaxWait = 10 * time.Second

// ErrNoStates says that bytes are not what Export appends.
var ErrNoStates = errors.New("engine: the bytes are no exported records")

// Import makes devices known as the records say that Export appended, and returns when that is as
// durable as the log promises, and how many devices it took. A device that is known stays as it is:
// what it has sent meanwhile is newer, and the same import may be repeated after an error. Silence
// counts as after a restart: from the receipt of a device's last heartbeat, with the grace from
// now on, which all devices get. Streams are told. Any goroutine; the devices of a user in one call
// at a time.
func (e *Engine) Import(states []byte) (taken int, err error) {
	i := importing{
		devices: e.devices, expiry: e.expiry, silence: e.recovery.silence, now: e.clock(),
	}
	e.expiry.postponeExpiry(i.now.Nanos)
	whole := EachState(states, func(b []byte) bool {
		var rec record.View
		if rec, err = record.Parse(b); err != nil {
			return false
		}
		err = i.add(rec)
		return err == nil
	})
	if err == nil && !whole {
		err = ErrNoStates
	}
	if i.lsn == 0 {
		return 0, err
	}
	return i.taken, errors.Join(err, e.log.Wait(i.lsn))
}

// importing is one call of Import. Single owner.
type importing struct {
	*devices
	expiry  *expirer
	silence silence
	now     Instant

	// user and device are the last one that was taken, at this LSN.
	user, device uuid.UUID
	lsn          uint64
	taken        int
}

// add takes up one record: the way in of a heartbeat, with a state that is given.
func (i *importing) add(rec record.View) error {
	user, device := rec.User(), rec.Device()
	if rec.Forget() {
		return fmt.Errorf("%w: one of a device that is forgotten", ErrNoStates)
	}
	size := record.UserBytes(len(rec.Source()))
	if err := i.log.Reserve(size, importMaxWait); err != nil {
		return err
	}
	source := i.sources.take(rec.Source(), 1)
	ref, entry, err := i.claim(user, device)
	if err != nil {
		i.sources.release(source, 1)
		i.log.Release(size)
		return err
	}
	held := entry.Held()
	if held.LSN != 0 && !i.mine(user, device, held.LSN) {
		entry.Unclaim()
		i.sources.release(source, 1)
		i.log.Release(size)
		return nil
	}
	next := table.State{State: rec.State(), Source: source}
	if next.Online {
		next.DeadlineNanos = i.silence.deadline(&next, i.now)
	}
	next.LSN = i.logAs(rec, &held, &next)
	entry.Commit(&next)
	if held.LSN != 0 {
		i.sources.release(held.Source, 1)
	}
	if !i.mine(user, device, held.LSN) {
		i.taken++
	}
	i.user, i.device, i.lsn = user, device, next.LSN
	i.counters.loops().moved(&held, &next)
	if next.Online {
		i.expiry.arm(ref, entry, next.DeadlineNanos, i.now.Nanos)
	}
	return nil
}

// claim finds or makes the entry of a device, and claims it.
func (i *importing) claim(user, device uuid.UUID) (table.Ref, *table.Entry, error) {
	for {
		ref, entry, err := i.table.FindOrInsert(user, device)
		if err != nil || entry.Claim(user, device) {
			return ref, entry, err
		}
	}
}

// mine reports whether the device stands as this import has made it: its record follows the one
// that says the last turn of its user.
func (i *importing) mine(user, device uuid.UUID, lsn uint64) bool {
	return lsn != 0 && lsn == i.lsn && user == i.user && device == i.device
}

// logAs appends the record of a device that becomes what an imported record says, and moves its
// user's aggregate as recovery will when it reads it. The claim is held.
func (i *importing) logAs(rec record.View, was, is *table.State) (lsn uint64) {
	held := i.table.Hold(rec.User())
	if was.Online != is.Online {
		held.Turn(is.Online, 0)
	}
	if rec.Turn() {
		held.SeenAtMS = max(held.SeenAtMS, rec.Seen(), rec.UserSeen())
	}
	lsn = i.log.Append(record.AppendUser(nil, rec.User(), rec.Device(), &is.State, rec.Source(),
		&record.User{SeenAtMS: held.SeenAtMS, Online: held.Online, Turn: rec.Turn()}), 0)
	if rec.Turn() {
		held.TurnLSN, held.ChangedAtMS = lsn, rec.UpdatedAt()
	}
	held.StoreTurn(i.log.Committed())
	return lsn
}
