package broadcast

import "github.com/google/uuid"

// slab holds values by number, from 1 on, in pages, so that growing moves none of them. Single
// owner.
type slab[T any] struct {
	pages []*[slabPage]T
	used  uint32   // numbers given out so far
	spare []uint32 // of these, the free ones
}

const slabPage = 1024

func (s *slab[T]) at(i uint32) *T { return &s.pages[i/slabPage][i%slabPage] }

// take gives out a number, whose value is the zero value.
func (s *slab[T]) take() uint32 {
	if n := len(s.spare); n > 0 {
		i := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return i
	}
	s.used++
	if int(s.used/slabPage) == len(s.pages) {
		s.pages = append(s.pages, new([slabPage]T))
	}
	return s.used
}

// give takes a number back.
func (s *slab[T]) give(i uint32) {
	var zero T
	*s.at(i) = zero
	s.spare = append(s.spare, i)
}

func (s *slab[T]) inUse() int { return int(s.used) - len(s.spare) }

// listFollow is one user of one list stream: 16 bytes. What the stream has of the user is said by
// the stream alone (B10).
type listFollow struct {
	user       uint32 // number of the followed user
	stream     uint32 // slot of the stream, lingersBit and settledBit
	next, prev uint32 // of the same user; 0: none
}

const (
	// lingersBit says that there is an item for the follow in lingers: the stream was told that the
	// user is online, although no device is.
	lingersBit = 1 << 31
	// settledBit says that the stream was told something else since: the item is void.
	settledBit = 1 << 30
)

func (f *listFollow) slot() uint32 { return f.stream &^ (lingersBit | settledBit) }

// filed reports whether there is an item for the follow, lingers whether it is not void.
func (f *listFollow) filed() bool   { return f.stream&lingersBit != 0 }
func (f *listFollow) lingers() bool { return f.stream&(lingersBit|settledBit) == lingersBit }

// listUser is a user whom list streams follow.
type listUser struct {
	id    uuid.UUID
	first uint32 // of its follows
	count uint32 // of its follows
}

// listFollows are the users whom list streams follow, and the follows. Without pointers, so that
// the garbage collector passes over them. Single owner: the worker.
type listFollows struct {
	users   slab[listUser]
	follows slab[listFollow]
	index   userIndex[uint32]
}

func (lf *listFollows) init() {
	lf.index.idOf = func(n uint32) uuid.UUID { return lf.users.at(n).id }
}

// link makes a stream follow a user and returns the follow's number.
func (lf *listFollows) link(slot uint32, id uuid.UUID) uint32 {
	hash := hashOf(id)
	n := lf.index.find(hash, id)
	if n == 0 {
		n = lf.users.take()
		lf.users.at(n).id = id
		lf.index.insert(hash, n)
	}
	u := lf.users.at(n)
	f := lf.follows.take()
	*lf.follows.at(f) = listFollow{user: n, stream: slot, next: u.first}
	if u.first != 0 {
		lf.follows.at(u.first).prev = f
	}
	u.first = f
	u.count++
	return f
}

// unlink ends a follow. A user without one is forgotten.
func (lf *listFollows) unlink(number uint32) {
	f := *lf.follows.at(number)
	u := lf.users.at(f.user)
	if f.prev == 0 {
		u.first = f.next
	} else {
		lf.follows.at(f.prev).next = f.next
	}
	if f.next != 0 {
		lf.follows.at(f.next).prev = f.prev
	}
	lf.follows.give(number)
	if u.count--; u.count == 0 {
		lf.index.remove(hashOf(u.id), f.user)
		lf.users.give(f.user)
	}
}

// find is the followed user of an id; nil: no list stream follows it.
func (lf *listFollows) find(id uuid.UUID) *listUser {
	n := lf.index.find(hashOf(id), id)
	if n == 0 {
		return nil
	}
	return lf.users.at(n)
}

// streams is how many list streams follow a user.
func (lf *listFollows) streams(id uuid.UUID) int {
	if u := lf.find(id); u != nil {
		return int(u.count)
	}
	return 0
}

// userOf is the user of a follow.
func (lf *listFollows) userOf(number uint32) uuid.UUID {
	return lf.users.at(lf.follows.at(number).user).id
}
