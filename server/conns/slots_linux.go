package conns

import (
	"time"
)

// slot is a connection while it is a loop's. There may be a million, so it is small. Guarded by the
// loop's mu.
type slot struct {
	fd     int32
	serial uint32 // with the slot's index, the connection's token
	// prev and next are the neighbours in the ring that the slot is in: of those that end by the
	// same rule, the oldest next to the ring's head.
	prev, next uint32
	until      time.Duration // since the loop began: when its wait is over
	peer       peer
	more       *more // nil: nothing more is known of it

	owed    uint32 // requests that are applied and not answered
	served  uint16 // requests since it came, as far as they are counted
	returns uint8  // how often it has gone back to fasthttp soon
	ring    ring
	watched watched
	leaving bool // to fasthttp, when all is answered
	ending  bool // it is closed when all is answered
}

// more is what some connections have at times.
type more struct {
	part   []byte        // of a request, the rest of which is on its way
	since  time.Duration // when the first byte of it came
	unsent []byte        // answers for which the socket has no room
	text   []byte        // what fasthttp gets
}

// ring is one of the lists that a connection can be in. Its head is the slot with the same index.
type ring uint8

const (
	known   ring = iota // wait for their next request
	strange             // strangers, which wait less
	partial             // have sent a part of a request
	blocked             // take no answers
	rings               // how many there are; and the ring of those that are in none
)

// watched is what the epoll is to report of a connection.
type watched uint8

const (
	nothing watched = iota
	input
	room
)

// slots are the connections of a loop. The free ones are in a list of their own. Guarded by the
// loop's mu.
type slots struct {
	all    []slot
	free   uint32 // the first free one; 0: none
	used   int
	serial uint32 // the last one given out
}

// reset gives back the memory of slots of which none is used.
func (s *slots) reset() {
	s.all, s.free = make([]slot, rings, 64), 0
	for i := range s.all {
		head := &s.all[i]
		head.fd, head.prev, head.next = -1, uint32(i), uint32(i)
	}
}

// add makes a slot for a connection, in a ring.
func (s *slots) add(fd int32, peer peer, in ring, until time.Duration) (index uint32) {
	if index = s.free; index == 0 {
		index = uint32(len(s.all))
		s.all = append(s.all, slot{})
	} else {
		s.free = s.all[index].next
	}
	s.used++
	s.serial++
	s.all[index] = slot{fd: fd, serial: s.serial, peer: peer, until: until, ring: rings}
	s.put(index, in)
	return index
}

// remove frees a slot.
func (s *slots) remove(index uint32) {
	s.put(index, rings)
	s.all[index] = slot{fd: -1, next: s.free}
	s.free = index
	if s.used--; s.used == 0 && len(s.all) > 1024 {
		s.reset()
	}
}

// put makes a slot the newest of a ring; rings: takes it out of the one that it is in.
func (s *slots) put(index uint32, in ring) {
	at := &s.all[index]
	if at.ring != rings {
		s.all[at.prev].next, s.all[at.next].prev = at.next, at.prev
	}
	if at.ring = in; in == rings {
		return
	}
	head := &s.all[in]
	at.prev, at.next = head.prev, uint32(in)
	s.all[at.prev].next, head.prev = index, index
}

// oldest returns the oldest slot of a ring; 0: the ring is empty.
func (s *slots) oldest(of ring) uint32 {
	if index := s.all[of].next; index != uint32(of) {
		return index
	}
	return 0
}

// token names the connection of a slot, and no other one for as long as it matters: a late report
// of one that is gone finds none (P3).
func (s *slots) token(index uint32) uint64 {
	return uint64(s.all[index].serial)<<32 | uint64(index)
}

// find returns the index of a token's slot; 0: the connection is gone.
func (s *slots) find(token uint64) uint32 {
	index := uint32(token)
	if int(index) >= len(s.all) || s.all[index].fd < 0 || s.all[index].serial != uint32(token>>32) {
		return 0
	}
	return index
}

// moreOf returns what more is known of a slot's connection, to be changed.
func (s *slots) moreOf(index uint32) *more {
	at := &s.all[index]
	if at.more == nil {
		at.more = new(more)
	}
	return at.more
}
