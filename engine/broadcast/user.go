package broadcast

import (
	"sync"

	"github.com/google/uuid"
)

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

// users are the users with streams, and the lists of their follows. Single owner: its worker, which
// changes index, opening and the users' counts under the inbox's mu: Subscribe reads them, and adds
// to opening, under mu.
type users struct {
	index userIndex[*user]
	slots *slots
	mu    *sync.Mutex // the inbox's
	limit int         // of a user's streams; 0: none
	// opening are the streams of a user that Subscribe took and the worker has not opened; with a
	// limit only.
	opening map[uuid.UUID]int
	burst   int // the most users in opening since it was made
}

func (us *users) init(slots *slots, mu *sync.Mutex, limit int) {
	us.slots, us.mu, us.limit = slots, mu, limit
	us.index.idOf = func(u *user) uuid.UUID { return u.id }
	us.opening = make(map[uuid.UUID]int)
}

func (us *users) find(id uuid.UUID) *user { return us.index.find(hashOf(id), id) }

// joinLocked counts one more stream that is to open, unless the user has as many as may be that are
// not ending.
func (us *users) joinLocked(id uuid.UUID) bool {
	if us.limit == 0 {
		return true
	}
	if us.opening[id]+us.streams(id) >= us.limit {
		return false
	}
	us.opening[id]++
	us.burst = max(us.burst, len(us.opening))
	return true
}

func (us *users) openedLocked(id uuid.UUID) {
	if n := us.opening[id]; n > 1 {
		us.opening[id] = n - 1
	} else {
		delete(us.opening, id)
	}
	if len(us.opening) == 0 && us.burst > 1000 { // a map does not shrink by itself
		us.opening, us.burst = make(map[uuid.UUID]int), 0
	}
}

// link makes a stream follow a user. through is the worker's of the source: a new user begins
// there. The follow comes first in the user's list, so a lap in progress does not reach it: the
// stream begins at through, and no frame of that lap is above.
func (us *users) link(s *stream, id uuid.UUID, source Source, through uint64) {
	hash := hashOf(id)
	us.mu.Lock()
	defer us.mu.Unlock()
	us.openedLocked(id)
	u := us.index.find(hash, id)
	if u == nil {
		u = &user{id: id, source: source, base: through, last: through}
		us.index.insert(hash, u)
	}
	u.mustBeOf(source)
	s.follow = follow{user: u, next: u.first}
	if u.first != 0 {
		us.slots.following(u.first).follow.prev = followID(s.slot)
	}
	u.first = followID(s.slot)
	u.count++
}

// unlinkLocked ends a stream's follow. A user without one is forgotten.
func (us *users) unlinkLocked(s *stream) {
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
		us.index.remove(hashOf(u.id), u)
	}
}

// streams is how many streams follow a user.
func (us *users) streams(id uuid.UUID) int {
	if u := us.find(id); u != nil {
		return int(u.count)
	}
	return 0
}
