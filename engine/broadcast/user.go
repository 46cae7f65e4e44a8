package broadcast

import "github.com/google/uuid"

// user is one user with streams. What they are told lies in fan: the frames of the events in (base,
// last]. A follow with through >= base is owed the frames above through; one below base is owed the
// newest state of what changed above through, since frames in between are gone (B4).
//
// Single owner: its worker. users changes the list of follows, fans changes base, last and fan, and
// laps change lap, cursor and queued.
type user struct {
	id         uuid.UUID
	base, last uint64
	lap        uint64   // the present lap has passed a stream only when last was at least this
	fan        *fan     // nil: no frames
	first      followID // of its streams
	count      uint32   // of its streams
	cursor     followID // that the lap visits next; 0: no lap has begun
	source     Source   // that its LSNs are of
	queued     bool     // it is in laps
}

func (u *user) mustBeOf(source Source) {
	if u.source != source {
		panic("bug: a user is of two sources") // their LSNs cannot be compared
	}
}

// users are the users with streams, and the lists of their follows. Single owner: its worker.
type users struct {
	byID  map[uuid.UUID]*user
	slots *slots
}

// link makes a stream follow a user. through is the worker's of the source: a new user begins
// there. The follow comes first in the user's list, so a lap in progress does not reach it: the
// stream begins at through, and no frame of that lap is above.
func (us *users) link(s *stream, id uuid.UUID, source Source, through uint64) {
	u := us.byID[id]
	if u == nil {
		u = &user{id: id, source: source, base: through, last: through}
		us.byID[id] = u
	}
	u.mustBeOf(source)
	s.follow = follow{user: u, next: u.first}
	if u.first != 0 {
		us.slots.following(u.first).follow.prev = followID(s.slot)
	}
	u.first = followID(s.slot)
	u.count++
}

// unlink ends a stream's follow. A user without one is forgotten.
func (us *users) unlink(s *stream) {
	f := s.follow
	u := f.user
	if u.cursor == followID(s.slot) {
		u.cursor = f.next
	}
	if f.prev == 0 {
		u.first = f.next
	} else {
		us.slots.following(f.prev).follow.next = f.next
	}
	if f.next != 0 {
		us.slots.following(f.next).follow.prev = f.prev
	}
	s.follow.user, s.follow.next, s.follow.prev = nil, 0, 0
	if u.count--; u.count == 0 {
		delete(us.byID, u.id)
	}
}

// streams is how many streams follow a user.
func (us *users) streams(id uuid.UUID) int {
	if u := us.byID[id]; u != nil {
		return int(u.count)
	}
	return 0
}
