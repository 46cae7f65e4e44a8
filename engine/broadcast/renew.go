package broadcast

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"

	"github.com/google/uuid"
)

// StreamIDLen is the length of a stream's id as text.
const StreamIDLen = 24

// streamIDs are the texts of stream ids. Each begins with the name of this process, so that those
// of one before are not known.
type streamIDs struct{ boot uint32 }

func newStreamIDs() streamIDs {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return streamIDs{binary.BigEndian.Uint32(b[:])}
}

// put writes the text of an id.
func (ids streamIDs) put(dst []byte, id StreamID) {
	var b [StreamIDLen / 2]byte
	binary.BigEndian.PutUint32(b[:], ids.boot)
	binary.BigEndian.PutUint64(b[4:], uint64(id))
	hex.Encode(dst, b[:])
}

// ParseStreamID reads a stream's id from its text; false: it is none of this process. Any
// goroutine.
func (b *Broadcaster) ParseStreamID(text string) (StreamID, bool) {
	var bytes [StreamIDLen / 2]byte
	if len(text) != StreamIDLen {
		return 0, false
	}
	if _, err := hex.Decode(bytes[:], []byte(text)); err != nil {
		return 0, false
	}
	id := StreamID(binary.BigEndian.Uint64(bytes[4:]))
	return id, binary.BigEndian.Uint32(bytes[:]) == b.ids.boot
}

// Fits decides whether a stream may be renewed, which an owner opened and which follows users. The
// stream's worker calls it: it must not block.
type Fits func(owner [16]byte, users func(yield func(uuid.UUID) bool)) bool

// Renew moves the end of a stream to an instant on the clock of Tick; 0: never. One that a drain
// would end before still ends then. ErrNoStream: it has ended; ErrUnfit: fits refused. It waits for
// the worker's answer, so it may be called between Start and Close only. Any goroutine.
func (b *Broadcaster) Renew(id StreamID, expiresNanos int64, fits Fits) error {
	err := ErrNoStream
	if i := id.worker(); i < len(b.workers) {
		w := b.workers[i]
		w.call(func() { err = w.renew(id, expiresNanos, fits) })
	}
	return err
}

// call has the worker call a function, and waits for it. A worker that was closed never does.
func (w *worker) call(fn func()) {
	done := make(chan struct{})
	called := w.in.ask(func(*worker) {
		fn()
		close(done)
	})
	if called {
		<-done
	}
}

// renew is the worker's part of Renew.
func (w *worker) renew(id StreamID, expiresNanos int64, fits Fits) error {
	slot := id.slot()
	if slot == 0 || slot >= w.slots.used {
		return ErrNoStream
	}
	s := w.slots.at(slot)
	if s.reuse != id.reuse() || s.state != open {
		return ErrNoStream
	}
	if !fits(w.ownerOf(s), func(yield func(uuid.UUID) bool) { w.eachUser(s, yield) }) {
		return ErrUnfit
	}
	ends := uint32(0)
	if expiresNanos != 0 {
		ends = w.deadlines.tickUp(expiresNanos)
	}
	if sub := w.heldOf(s); sub != nil {
		sub.ExpiresNanos = expiresNanos // from Begin on
	}
	if s.drains && (ends == 0 || s.ends <= ends) {
		return nil
	}
	s.ends, s.drains = ends, false
	if w.drain.began {
		w.drain.setEnd(s, w.deadlines.now)
	}
	w.deadlines.file(s)
	return nil
}

// ownerOf is the owner of a stream; of one of a single user it is that user.
func (w *worker) ownerOf(s *stream) [16]byte {
	if sub := w.heldOf(s); sub != nil {
		if sub.List != nil {
			return sub.Owner
		}
		return sub.User
	}
	if s.list != nil {
		return s.list.owner
	}
	return s.follow.user.id
}

// eachUser calls yield for each user that a stream follows, until it returns false.
func (w *worker) eachUser(s *stream, yield func(uuid.UUID) bool) {
	if sub := w.heldOf(s); sub != nil {
		eachHeld(sub, yield)
		return
	}
	if s.list == nil {
		yield(s.follow.user.id)
		return
	}
	for i := range s.list.follows.users {
		if !yield(w.lists.follows.userOf(s.list.follows.at(i))) {
			return
		}
	}
}
