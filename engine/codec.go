package engine

import (
	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/record"
	"rollcall/wire"
)

// codec is how the broadcaster asks for text: of an event, which is a record of the log, and of a snapshot, which is read
// from the table.
type codec struct{ e *Engine }

// Codec turns the engine's records and devices into the text of frames, for a broadcaster that
// takes its events as Options.Events.
func (e *Engine) Codec() broadcast.Codec { return codec{e} }

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

// AppendSnapshot appends a frame for each device of the user whose last change has after < LSN <= through (I3). A device
// that changed later is left out: its event is still on its way to the caller.
func (c codec) AppendSnapshot(dst []byte, _ broadcast.Source, user uuid.UUID, after, through uint64) []byte {
	c.e.table.Devices(user, func(_ table.Ref, entry *table.Entry) bool {
		if s, source, ok := c.e.read(entry); ok && after < s.LSN && s.LSN <= through {
			_, device := entry.IDs()
			ev := event(user, device, &s.State, source)
			dst = wire.AppendFrame(dst, &ev)
		}
		return true
	})
	return dst
}

// read returns a consistent state together with the text of its source. The source's id cannot be given to another text
// while an entry holds it, so an LSN that has not moved vouches for the text.
func (e *Engine) read(entry *table.Entry) (table.State, string, bool) {
	for {
		s, ok := entry.Load()
		if !ok {
			return s, "", false
		}
		if source := e.sources.name(s.Source); entry.LSN() == s.LSN {
			return s, source, true
		}
	}
}

func event(user, device uuid.UUID, s *record.State, source string) wire.Event {
	return wire.Event{
		User: user, Device: device, Status: s.Status(), Source: source,
		SentAtMS: s.SentAtMS, Seq: s.Seq, TTLMS: s.TTLMS,
	}
}
