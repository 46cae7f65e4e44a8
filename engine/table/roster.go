package table

import "slices"

// rosterMin is with how many devices a user's ring becomes a roster. A ring costs nothing beside
// the entries, but to find the device before another one means to walk it; a walk this long is
// cheaper than a roster's own memory would be for the many users with few devices.
const rosterMin = 16

// roster is the devices of a user with many, where each can be taken out in one step and all can be
// copied at the speed of memory. A device's entry.next is its place in refs. Guarded by the shard's
// mu.
type roster struct{ refs []Ref }

// add appends a device.
func (ro *roster) add(r Ref, e *Entry) {
	e.setNext(Ref(len(ro.refs)))
	ro.refs = append(ro.refs, r)
}

// remove takes a device out and puts the last one in its place. The memory of a user that had far
// more devices is given back.
func (ro *roster) remove(slab *slab, e *Entry) {
	place, end := e.nextRef(), len(ro.refs)-1
	moved := ro.refs[end]
	ro.refs[place] = moved
	slab.entry(moved).setNext(place)
	ro.refs = ro.refs[:end]
	if len(ro.refs) < cap(ro.refs)/4 {
		ro.refs = slices.Clone(ro.refs)
	}
}

// linkLocked notes the device as one of its user's, the last by first sight. The user had so many
// devices before (countLocked).
func (s *shard) linkLocked(t *Table, k *key, r Ref, e *Entry, count int) {
	if ro := s.rosters[k.user]; ro != nil {
		ro.add(r, e)
		return
	}
	i, last := s.lastLocked(t.slab, k)
	switch {
	case last == nil:
		e.setNext(r)
		users := s.users.Load()
		if users.full() {
			users = users.rebuilt(&t.blocks)
			s.users.Store(users)
		}
		users.insert(k.userTag(), r)
		t.users.Add(1)
	case count < rosterMin:
		e.setNext(last.nextRef())
		last.setNext(r)
		s.users.Load().replace(i, r)
	default:
		s.enrollLocked(t.slab, k, i, last).add(r, e)
	}
}

// enrollLocked makes a roster of a user's ring, whose word is at i.
func (s *shard) enrollLocked(slab *slab, k *key, i uint32, last *Entry) *roster {
	refs := s.ringLocked(slab, make([]Ref, 0, 2*rosterMin), last)
	ro := &roster{refs: refs[:0]}
	for _, r := range refs {
		ro.add(r, slab.entry(r))
	}
	s.users.Load().remove(i)
	if s.rosters == nil {
		s.rosters = make(map[words]*roster)
	}
	s.rosters[k.user] = ro
	return ro
}

// unlinkLocked takes the device out of its user's ring or roster.
func (s *shard) unlinkLocked(t *Table, k *key, r Ref, e *Entry) {
	if ro := s.rosters[k.user]; ro != nil {
		ro.remove(t.slab, e)
		if len(ro.refs) == 0 {
			delete(s.rosters, k.user)
			t.forgetUserLocked(k)
		}
		return
	}
	i, last := s.lastLocked(t.slab, k)
	_, before := split(s.users.Load().words[i].Load())
	p := last
	for p.nextRef() != r { // fewer than rosterMin steps
		before = p.nextRef()
		p = t.slab.entry(before)
	}
	if p == e {
		s.users.Load().remove(i)
		t.forgetUserLocked(k)
		return
	}
	p.setNext(e.nextRef())
	if e == last {
		s.users.Load().replace(i, before)
	}
}

// forgetUserLocked counts a user that has no device any more, and forgets its aggregate.
func (t *Table) forgetUserLocked(k *key) {
	t.users.Add(-1)
	t.aggregatesOf(k).remove(k.user)
}

// lastLocked returns the last device of a user's ring and the position of the user's word; nil: the
// user has no ring.
func (s *shard) lastLocked(slab *slab, k *key) (uint32, *Entry) {
	tag, users := k.userTag(), s.users.Load()
	for i := tag & users.mask; ; i = (i + 1) & users.mask {
		w := users.words[i].Load()
		if w == vacant {
			return 0, nil
		}
		if t, r := split(w); t == tag && r != 0 {
			e := slab.entry(r)
			if e.holdsUser(k.user) {
				return i, e
			}
		}
	}
}

// devicesLocked appends the refs of the user's devices, in the order of first sight unless one was
// removed from a roster.
func (s *shard) devicesLocked(slab *slab, k *key, dst []Ref) []Ref {
	if ro := s.rosters[k.user]; ro != nil {
		return append(dst, ro.refs...)
	}
	if _, last := s.lastLocked(slab, k); last != nil {
		return s.ringLocked(slab, dst, last)
	}
	return dst
}

// ringLocked appends the refs of the ring that ends with last.
func (s *shard) ringLocked(slab *slab, dst []Ref, last *Entry) []Ref {
	for e := last; ; {
		r := e.nextRef()
		dst = append(dst, r)
		if e = slab.entry(r); e == last {
			return dst
		}
	}
}

// countLocked is how many devices the user has. It walks a ring.
func (s *shard) countLocked(slab *slab, k *key) int {
	if ro := s.rosters[k.user]; ro != nil {
		return len(ro.refs)
	}
	_, last := s.lastLocked(slab, k)
	if last == nil {
		return 0
	}
	n := 1
	for e := slab.entry(last.nextRef()); e != last; e = slab.entry(e.nextRef()) {
		n++
	}
	return n
}
