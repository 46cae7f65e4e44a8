package watch

import (
	"slices"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/record"
)

const (
	// manyDevices is the number of devices above which the states of a user are read without the
	// lock: about as many as fit into a message.
	manyDevices = 512
	// fewBytes are about as many changes as are put into the states under the lock; more, and it is
	// done without, but at most catchUps times.
	fewBytes = 4096
	catchUps = 8
	// statesAt is where the states begin in a SNAPSHOT of one user.
	statesAt = numberedBytes + partBytes
)

// reading is a user with many devices whose states are being read. Guarded by Hub.mu.
type reading struct {
	user   uuid.UUID
	missed []byte // what was published since, in the form of states
	lost   bool   // something was not published
}

// long are the states of a user with many devices, as SNAPSHOTs of which the heads are missing. The
// hub's goroutine has it.
type long struct {
	hub      *Hub
	part     part
	messages [][]byte
	in       map[uuid.UUID]int // the message of each device
}

// isMany reports whether a user has so many devices that others would wait for it.
func (h *Hub) isMany(user uuid.UUID) bool {
	h.mu.Lock()
	table := h.table
	h.mu.Unlock()
	return table != nil && table.DeviceCount(user) > h.many
}

// tellMany is tell for one user with many devices. It reads the states without the lock, and puts
// what Publish has noted meanwhile into them: first without the lock, while that is much, and the
// rest under the lock under which it registers the node. So they are those of the last Flush then,
// as if they had been read in that step (E2).
func (h *Hub) tellMany(node string, question uint64, user uuid.UUID) (n int) {
	r := &reading{user: user}
	h.mu.Lock()
	table, through := h.table, h.through
	if h.reading = r; table == nil || through == 0 {
		h.reading = nil
		h.mu.Unlock()
		return 0 // the first Flush tells of what was replayed, which Publish does not
	}
	h.mu.Unlock()
	l := h.readMany(table, user, through)
	for round := 0; ; round++ {
		h.mu.Lock()
		missed := r.missed
		if r.missed = nil; len(missed) <= h.few || round == catchUps {
			defer h.mu.Unlock()
			l.apply(missed)
			h.reading = nil
			return h.sendMany(node, question, l, r.lost)
		}
		h.mu.Unlock()
		l.apply(missed)
	}
}

// readMany reads the states of a user through an LSN. What is above it is not in them, whether it
// is committed meanwhile or not.
func (h *Hub) readMany(table Table, user uuid.UUID, through uint64) *long {
	states, newer, told := table.AppendStates(nil, user, through)
	l := &long{hub: h, part: part{user: user, told: told, until: newer}, in: map[uuid.UUID]int{}}
	l.add(nil)
	engine.EachState(states, func(rec []byte) bool {
		l.add(rec)
		return true
	})
	return l
}

// add appends the state of a device that has none; nil: of none yet.
func (l *long) add(rec record.View) {
	at := len(l.messages) - 1
	if at < 0 || len(l.messages[at])-statesAt > l.hub.chunk {
		message := l.hub.begin(kindSnapshot, min(l.hub.chunk, chunkBytes/4))
		l.messages = append(l.messages, append(message, make([]byte, partBytes)...))
		at++
	}
	if rec != nil {
		l.messages[at] = appendState(l.messages[at], rec)
		l.in[rec.Device()] = at
	}
}

// remove takes out the state of a device, if there is one.
func (l *long) remove(device uuid.UUID) {
	i, ok := l.in[device]
	if !ok {
		return
	}
	delete(l.in, device)
	m := l.messages[i]
	for at := statesAt; at < len(m); {
		end := at + 2 + int(m[at]) + int(m[at+1])<<8
		if record.View(m[at+2:end]).Device() == device {
			l.messages[i] = slices.Delete(m, at, end)
			return
		}
		at = end
	}
}

// apply puts changes into the states, in their order.
func (l *long) apply(changes []byte) {
	engine.EachState(changes, func(rec []byte) bool {
		r := record.View(rec)
		l.remove(r.Device())
		if !r.Forget() {
			l.add(r)
		}
		hear(&l.part.told, r)
		return true
	})
}

// sendMany registers a node for a user and sends it the states, as tell does. The caller holds mu.
func (h *Hub) sendMany(node string, question uint64, l *long, lost bool) (n int) {
	at, ok := h.seat(node)
	if !ok {
		return 0
	}
	if lost || !h.register(at, l.part.user) {
		return 1 // the node asks again
	}
	h.watched.Store(int64(len(h.users)))
	for i, message := range l.messages {
		if l.part.flags = 0; i > 0 {
			l.part.flags |= flagRest
		}
		if i < len(l.messages)-1 {
			l.part.flags |= flagMore
		}
		appendPartHead(message[:numberedBytes], &l.part, len(message)-statesAt)
		h.send(h.nodes[at], message, h.through, question)
	}
	return 1
}
