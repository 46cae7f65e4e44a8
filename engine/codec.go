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
	if lsn := entry.LSN(); lsn <= after { // most, when a few are asked for
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

// Turn reports whether a record changed its user's aggregate.
func (c codec) Turn(rec []byte) bool { return false }

// AppendUserFrame appends the frame of a user's aggregate after a turn.
func (c codec) AppendUserFrame(dst, rec []byte, lingers bool) (text []byte, gone bool) {
	return dst, false
}

// AppendUser appends the frame of a user's aggregate.
func (c codec) AppendUser(
	dst []byte, _ broadcast.Source, user uuid.UUID, after, through uint64, linger time.Duration,
) (text []byte, a broadcast.Aggregate) {
	return dst, a
}
