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

// listFollow is one user of one list stream: 12 bytes. What the stream has of the user is said by
// the stream alone (B10).
type listFollow struct {
	user       uint32 // number of the followed user, lingersBit and settledBit
	next, prev uint32 // of the same user; 0: none
}

const (
	// lingersBit says that there is an item for the follow in lingers: the stream was told that the
	// user is online, although no device is.
	lingersBit = 1 << 31
	// settledBit says that the stream was told something else since: the item is void.
	settledBit = 1 << 30
)

func (f *listFollow) number() uint32 { return f.user &^ (lingersBit | settledBit) }

// filed reports whether there is an item for the follow, lingers whether it is not void.
func (f *listFollow) filed() bool   { return f.user&lingersBit != 0 }
func (f *listFollow) lingers() bool { return f.user&(lingersBit|settledBit) == lingersBit }

// The follows of a stream lie in blocks, so that the stream is noted once for each block, and the
// stream notes its blocks and not its follows. A follow's number is its block's and its place in
// the block.
const (
	blockBits    = 4
	blockFollows = 1 << blockBits
)

// followRun are the follows of a stream, in the order of the snapshot.
type followRun struct {
	blocks []uint32
	users  int
}

// at is the number of the i-th follow.
func (r *followRun) at(i int) uint32 {
	return r.blocks[i/blockFollows]<<blockBits | uint32(i%blockFollows)
}

// listUser is a user whom list streams follow.
type listUser struct {
	id    uuid.UUID
	first uint32 // of its follows
}

// listFollows are the users whom list streams follow, and the follows. Without pointers, so that
// the garbage collector passes over them. Single owner: the worker.
type listFollows struct {
	users   slab[listUser]
	blocks  slab[[blockFollows]listFollow]
	streams []uint32 // slots, by block
	count   int      // of follows
	index   userIndex[uint32]
}

func (lf *listFollows) init() {
	lf.index.idOf = func(n uint32) uuid.UUID { return lf.users.at(n).id }
}

// at is a follow.
func (lf *listFollows) at(number uint32) *listFollow {
	return &lf.blocks.at(number >> blockBits)[number%blockFollows]
}

// streamOf is the slot of a follow's stream.
func (lf *listFollows) streamOf(number uint32) uint32 { return lf.streams[number>>blockBits] }

// begin makes a stream follow users.
func (lf *listFollows) begin(slot uint32, users []uuid.UUID) (run followRun) {
	run.users = len(users)
	run.blocks = make([]uint32, (len(users)+blockFollows-1)/blockFollows)
	for i := range run.blocks {
		block := lf.blocks.take()
		for int(block) >= len(lf.streams) {
			lf.streams = append(lf.streams, 0)
		}
		run.blocks[i], lf.streams[block] = block, slot
	}
	for i, user := range users {
		lf.link(run.at(i), user)
	}
	return run
}

// end ends a stream's follows.
func (lf *listFollows) end(run *followRun) {
	for i := range run.users {
		lf.unlink(run.at(i))
	}
	for _, block := range run.blocks {
		lf.blocks.give(block)
	}
}

func (lf *listFollows) link(number uint32, id uuid.UUID) {
	hash := hashOf(id)
	n := lf.index.find(hash, id)
	if n == 0 {
		n = lf.users.take()
		lf.users.at(n).id = id
		lf.index.insert(hash, n)
	}
	u := lf.users.at(n)
	*lf.at(number) = listFollow{user: n, next: u.first}
	if u.first != 0 {
		lf.at(u.first).prev = number
	}
	u.first = number
	lf.count++
}

// unlink ends a follow. A user without one is forgotten.
func (lf *listFollows) unlink(number uint32) {
	f := lf.at(number)
	u := lf.users.at(f.number())
	if f.prev == 0 {
		u.first = f.next
	} else {
		lf.at(f.prev).next = f.next
	}
	if f.next != 0 {
		lf.at(f.next).prev = f.prev
	}
	lf.count--
	if u.first == 0 {
		lf.index.remove(hashOf(u.id), f.number())
		lf.users.give(f.number())
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

// streamsOf is how many list streams follow a user, or as many as it has looked at.
func (lf *listFollows) streamsOf(u *listUser, most int) (n int) {
	if u == nil {
		return 0
	}
	for number := u.first; number != 0 && n < most; number = lf.at(number).next {
		n++
	}
	return n
}

// userOf is the user of a follow.
func (lf *listFollows) userOf(number uint32) uuid.UUID {
	return lf.users.at(lf.at(number).number()).id
}
