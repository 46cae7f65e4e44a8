package server

import (
	"time"

	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine"
	"rollcall/engine/broadcast"
)

// resumes turn what a client brings, a cursor, into what it is owed. Any goroutine may use it.
type resumes struct {
	presence interface {
		History() *cursor.History
		Turned(user uuid.UUID) (atMS uint64, online bool)
	}
	recent *recentLists
	clock  engine.Clock
}

// toldSlackMS is by how much what a client was told may be behind the instant that its cursor says:
// a linger ends with a tick of the streams' clock, and a busy worker comes to it later.
const toldSlackMS = 5000

// list makes the subscription of a stream of these users, which it reorders, with what a client
// that has this cursor is owed. A cursor that is not honoured is none: the client gets everything.
func (r *resumes) list(
	users []uuid.UUID, view broadcast.View, linger time.Duration, text []byte,
) *broadcast.List {
	history := r.presence.History()
	digest := r.remember(history, users)
	ids := &cursorIDs{history: history, clock: r.clock, c: cursor.Cursor{
		View: byte(view), LingerMS: uint32(linger.Milliseconds()), List: digest,
	}}
	if linger > 0 {
		ids.c.ToldMS = r.clock().WallMS
	}
	l := &broadcast.List{Users: users, View: view, Linger: linger, IDs: ids}
	if len(text) == 0 {
		return l
	}
	c, ok := history.Parse(text)
	if !ok || c.LSN == 0 || c.View != ids.c.View || c.LingerMS != ids.c.LingerMS {
		return l
	}
	remembered := func(user uuid.UUID) bool { return history.Forgotten(user) <= c.LSN }
	if view == broadcast.ViewDevices && !all(users, remembered) {
		return l // the client could not be told of a device that is gone
	}
	known := len(users)
	if c.List != digest {
		had := r.recent.find(c.List)
		if had == nil {
			return l
		}
		known = partition(users, func(user uuid.UUID) bool { return had.has(history.User(user)) })
	}
	if view == broadcast.ViewUsers { // coming whole says that
		known = partition(users[:known], remembered)
	}
	if linger > 0 {
		known = r.tellEnded(users, known, linger, c.ToldMS)
	}
	l.Known, l.After, l.Resumed = known, c.LSN, true
	if known > 0 {
		// The client lets go of the users that it does not ask for any more.
		if c.List = digest; known < len(users) {
			c.List = r.remember(history, users[:known])
		}
		ids.before = &c
	}
	return l
}

// toldMS is the wall clock at an instant of the clock that has passed: a worker knows what is due
// by its last tick, which is old when the process did not run.
func toldMS(now engine.Instant, nanos int64) uint64 {
	age := uint64(max(0, now.Nanos-nanos)) / uint64(time.Millisecond)
	return now.WallMS - min(now.WallMS, age)
}

// remember returns the digest of a list, for which the users are found again.
func (r *resumes) remember(history *cursor.History, users []uuid.UUID) (digest uint64) {
	digest = history.List(users)
	r.recent.add(digest, func() []uint64 {
		hashes := make([]uint64, len(users))
		for i, user := range users {
			hashes[i] = history.User(user)
		}
		return hashes
	})
	return digest
}

// all reports whether a condition holds for every user.
func all(users []uuid.UUID, holds func(uuid.UUID) bool) bool {
	for _, user := range users {
		if !holds(user) {
			return false
		}
	}
	return true
}

// tellEnded leaves out of the first known users those whose linger has ended since the client was
// told, or may have: it has them as online, and their end is no event above its cursor.
func (r *resumes) tellEnded(
	users []uuid.UUID, known int, linger time.Duration, toldMS uint64,
) int {
	lingerMS := uint64(linger.Milliseconds())
	return partition(users[:known], func(user uuid.UUID) bool {
		at, online := r.presence.Turned(user)
		return online || at+lingerMS+toldSlackMS <= toldMS
	})
}

// partition moves the users for which first holds to the front and returns how many they are. It
// keeps the order of both.
func partition(users []uuid.UUID, first func(uuid.UUID) bool) (n int) {
	var others []uuid.UUID
	for _, user := range users {
		if first(user) {
			users[n] = user
			n++
		} else {
			others = append(others, user)
		}
	}
	copy(users[n:], others)
	return n
}

// cursorIDs are the ids of a stream's events. The stream's worker has it.
type cursorIDs struct {
	history *cursor.History
	clock   engine.Clock
	c       cursor.Cursor  // but for LSN; ToldMS is when no user lingered last
	before  *cursor.Cursor // what the client has until synced; nil: nothing
}

// AppendID implements broadcast.IDs. In the middle of the first snapshot a client has what it had
// of the users that it knows, and newer states of some, or nothing.
func (ids *cursorIDs) AppendID(dst []byte, at broadcast.Position) []byte {
	if ids.c.LingerMS > 0 && !at.Overdue {
		ids.c.ToldMS = toldMS(ids.clock(), at.Nanos)
	}
	c := ids.c
	switch {
	case at.Synced:
		ids.before = nil
		c.LSN, c.Newest = at.Through, at.Newest
	case ids.before != nil:
		c = *ids.before
		c.Newest = max(c.Newest, at.Newest)
	}
	return ids.history.Append(dst, c)
}
