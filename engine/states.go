package engine

import (
	"encoding/binary"

	"github.com/google/uuid"

	"rollcall/record"
)

// AppendStates appends what a Follower's Update.Replace takes: for each device of the user whose
// last change has an LSN up to through, the length of a record in two bytes, little endian, and the
// record. A device that changed later is left out, as one that is still on its way, and so is one
// that was forgotten later: newer is the highest LSN of those changes, 0 if there are none. The
// caller may show it if everything through through
// is committed, and if this engine is vouched for (see Log.Vouch). Any goroutine.
func (e *Engine) AppendStates(dst []byte, user uuid.UUID, through uint64) (
	_ []byte, newer uint64, told Told,
) {
	d := e.devices
	held, _ := d.table.Aggregate(user)
	told.SeenAtMS = d.table.RaiseSeen(user, 0, through, d.clock().WallMS)
	if held.TurnLSN <= through {
		told.ChangedAtMS = held.ChangedAtMS
	} else {
		newer = held.TurnLSN
	}
	for _, ref := range d.table.Devices(user, nil) {
		owner, device, s, source, ok := d.read(d.table.Entry(ref))
		switch {
		case !ok || owner != user:
			continue
		case s.LSN > through:
			newer = max(newer, s.LSN)
			continue
		}
		at := len(dst)
		dst = record.AppendUser(append(dst, 0, 0), user, device, &s.State, []byte(source),
			&record.User{SeenAtMS: told.SeenAtMS, Online: held.Online})
		binary.LittleEndian.PutUint16(dst[at:], uint16(len(dst)-at-2))
	}
	// A device is gone from the table before it is committed that it was forgotten, which was noted
	// even earlier.
	if gone := d.history.Forgotten(user); gone > through {
		newer = max(newer, gone)
	}
	return dst, newer, told
}

// DeviceCount is how many devices the user has, also those that are not committed. It looks at few
// of them. Any goroutine.
func (e *Engine) DeviceCount(user uuid.UUID) int { return e.devices.table.Count(user) }

// EachState calls fn for each record that AppendStates appended, until it returns false. False: the
// bytes are none.
func EachState(states []byte, fn func(rec []byte) bool) (ok bool) {
	for len(states) > 0 {
		if len(states) < 2 {
			return false
		}
		n := int(binary.LittleEndian.Uint16(states))
		if len(states) < 2+n {
			return false
		}
		if !fn(states[2 : 2+n]) {
			return true
		}
		states = states[2+n:]
	}
	return true
}
