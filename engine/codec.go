package engine

import (
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

// AppendSnapshot appends a frame for each device of the user whose last change has
// after < LSN <= through (I3). A device that changed later is left out: its event is still on its
// way to the caller.
func (c codec) AppendSnapshot(
	dst []byte, _ broadcast.Source, user uuid.UUID, after, through uint64,
) []byte {
	c.table.Devices(user, func(_ table.Ref, entry *table.Entry) bool {
		if _, device, s, source, ok := c.read(entry); ok && after < s.LSN && s.LSN <= through {
			ev := event(user, device, &s.State, source)
			dst = wire.AppendFrame(dst, &ev)
		}
		return true
	})
	return dst
}
