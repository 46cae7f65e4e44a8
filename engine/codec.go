package engine

import (
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/record"
	"rollcall/wire"
)

// codec is how the broadcaster asks for text: of an event, which is a record of the log, and of a
// snapshot, which is read from the table.
type codec struct{ *devices }

// Codec turns the engine's records and devices into the text of frames, for a broadcaster that
// takes its events as Options.Events.
func (e *Engine) Codec() broadcast.Codec { return codec{e.devices} }

// AppendFrame appends the frame of one record.
func (c codec) AppendFrame(dst, rec []byte) []byte {
	r, err := record.Parse(rec)
	if err != nil {
		panic("bug: an event is not a record of ours: " + err.Error())
	}
	s := r.State()
	ev := event(r.User(), r.Device(), &s, string(r.Source()))
	return wire.AppendFrame(dst, &ev)
}

// Ahead has what leads to the devices of some users loaded, and two devices of each, so that the
// cache misses overlap.
func (c codec) Ahead(_ broadcast.Source, users []uuid.UUID) {
	var finds [GroupSize / 2]table.UserLookup
	for len(users) > 0 {
		n := min(len(users), len(finds))
		for i, user := range users[:n] {
			finds[i].User = user
		}
		c.table.TouchUsers(finds[:n])
		users = users[n:]
	}
}

// AppendDevices appends the refs of the user's devices.
func (c codec) AppendDevices(dst []uint32, _ broadcast.Source, user uuid.UUID) []uint32 {
	var few [16]table.Ref
	for _, ref := range c.table.Devices(user, few[:0]) {
		dst = append(dst, uint32(ref))
	}
	return dst
}

// AppendState appends the frame of a device whose last change has after < LSN <= through (I3). One
// that changed later is left out: its event is still on its way to the caller. A device that was
// forgotten since AppendDevices named it has no state, and what is in its slot now is another's, or
// came later.
func (c codec) AppendState(
	dst []byte, _ broadcast.Source, user uuid.UUID, device uint32, after, through uint64,
) (text []byte, newer uint64) {
	entry := c.table.Entry(table.Ref(device))
	if entry.Unchanged(after) { // most, when a few are asked for
		return dst, 0
	}
	owner, id, s, source, ok := c.read(entry)
	switch {
	case !ok || owner != user || s.LSN <= after:
		return dst, 0
	case s.LSN > through:
		return dst, s.LSN
	}
	ev := event(user, id, &s.State, source)
	return wire.AppendFrame(dst, &ev), 0
}

// Forgotten is the LSN at which a device was forgotten last, of a user in the same bucket.
func (c codec) Forgotten(_ broadcast.Source, user uuid.UUID) uint64 {
	return c.history.Forgotten(user)
}

// Turn reports whether a record changed its user's aggregate.
func (c codec) Turn(rec []byte) bool { return record.View(rec).Turn() }

// AppendUserFrame appends the frame of a user's aggregate after a turn.
func (c codec) AppendUserFrame(dst, rec []byte, lingers bool) []byte {
	r := record.View(rec)
	ev := wire.UserEvent{
		User: r.User(), Online: r.UserOnline(), Lingers: lingers,
		SeenAtMS: r.UserSeen(), ChangedAtMS: r.UpdatedAt(),
	}
	// What later changes of the batch say may have been shown with an earlier one of it. And
	// devices that are online may have been heard of since their turns.
	if ev.Online > 0 {
		ev.SeenAtMS = c.lastSeen(ev.User, ev.SeenAtMS, c.log.Committed())
	} else {
		ev.SeenAtMS = c.table.RaiseSeen(ev.User, ev.SeenAtMS, c.log.Committed(), c.clock().WallMS)
	}
	return wire.AppendUserFrame(dst, &ev)
}

// Lingers is for how long a user is still shown as online after a turn.
func (c codec) Lingers(rec []byte, linger time.Duration) time.Duration {
	r := record.View(rec)
	if r.UserOnline() > 0 {
		return 0
	}
	return c.lingersFor(r.UpdatedAt(), linger)
}

// AppendUser appends the frame of a user's aggregate whose last turn has after < LSN <= through. A
// later turn is left out: its event is on its way. A turn that has an LSN moved the aggregate under
// the lock under which it got it, so that one that was published is never missed.
func (c codec) AppendUser(
	dst []byte, _ broadcast.Source, user uuid.UUID, after, through uint64, linger time.Duration,
) (text []byte, a broadcast.Aggregate) {
	held, known := c.table.Aggregate(user)
	a.LSN, a.Online = held.TurnLSN, int(held.Online)
	if a.LSN > through || after > 0 && a.LSN <= after {
		return dst, a
	}
	ev := wire.UserEvent{
		User: user, Online: a.Online, SeenAtMS: held.SeenAtMS, ChangedAtMS: held.ChangedAtMS,
	}
	switch {
	case ev.Online > 0:
		ev.SeenAtMS = c.lastSeen(user, ev.SeenAtMS, through)
	case known:
		ev.SeenAtMS = table.NotAhead(ev.SeenAtMS, c.clock().WallMS)
		a.Lingers = c.lingersFor(held.ChangedAtMS, linger)
		ev.Lingers = a.Lingers > 0
	}
	return wire.AppendUserFrame(dst, &ev), a
}

// lingersFor is how long a user that went offline at an instant is still shown as online.
func (c codec) lingersFor(changedAtMS uint64, linger time.Duration) time.Duration {
	if linger == 0 {
		return 0
	}
	gone := time.Duration(0) // a clock that went backwards makes it no longer than linger
	if now := c.clock().WallMS; now > changedAtMS {
		gone = time.Duration(min(now-changedAtMS, uint64(linger.Milliseconds()))) * time.Millisecond
	}
	return linger - gone
}

// lastSeenDevices is how many devices a frame of an online user looks at: of a user with more, last
// seen is as of its last turn.
const lastSeenDevices = 64

// lastSeen is when a user with devices online was heard of last, by what has an LSN up to through
// (I2), and not below seen. A device whose last heartbeat lies above that counts with what was
// shown of it before, which the aggregate keeps: so what is shown does not go back.
func (c codec) lastSeen(user uuid.UUID, seen, through uint64) uint64 {
	var few [16]table.Ref
	if refs := c.table.Devices(user, few[:0]); len(refs) <= lastSeenDevices {
		for _, ref := range refs {
			owner, _, s, ok := c.table.Entry(ref).Read()
			if ok && owner == user && s.Online && s.LSN <= through {
				seen = max(seen, s.UpdatedAtMS)
			}
		}
	}
	return c.table.RaiseSeen(user, seen, through, c.clock().WallMS)
}
