package table

import (
	"sync"
	"sync/atomic"
)

// shard is the part of the table that holds some users with all their devices.
type shard struct {
	// devices leads from (user, device) to an entry. Probed by any goroutine without a lock;
	// changed and replaced under mu. A replacement is complete when it is stored; a reader that
	// still probes its predecessor misses what was inserted since, no more.
	devices atomic.Pointer[index]

	mu sync.Mutex

	// users leads from a user to the device that was seen last, whose next is the one seen first. A
	// user with many devices is in rosters instead (T5). Guarded by mu; prefetched without it.
	users   atomic.Pointer[index]
	rosters map[words]*roster // nil: none; guarded by mu

	free      Ref // first free slot, linked by next; guarded by mu
	freeSlots int // length of that list; guarded by mu
	run       Ref // next slot of the run that was not used yet; guarded by mu
	runSlots  int // how many of it are left; guarded by mu

}

// find looks the device up without a lock.
func (s *shard) find(slab *slab, k *key) (Ref, *Entry) {
	ix := s.devices.Load()
	tag := k.deviceTag()
	for i := tag & ix.mask; ; i = (i + 1) & ix.mask {
		w := ix.words[i].Load()
		if w == vacant {
			return 0, nil
		}
		if t, r := split(w); t == tag && r != 0 {
			if e := slab.entry(r); e.holds(k.user, k.device) {
				return r, e
			}
		}
	}
}

// insertLocked gives the device, which must be absent, a slot, and publishes it; with over also
// above the bounds.
func (s *shard) insertLocked(t *Table, k *key, over bool) (Ref, *Entry, error) {
	count := s.countLocked(t.slab, k)
	if count >= t.maxPerUser && !over {
		return 0, nil, ErrUserFull
	}
	if !t.takePlace(over) {
		return 0, nil, ErrFull
	}
	r, err := s.takeSlotLocked(t.slab, over)
	if err != nil {
		t.givePlace()
		return 0, nil, err
	}
	e := t.slab.entry(r)
	e.acquire() // a goroutine that looked up the slot's former device may try it just now
	e.own(k.user, k.device)
	s.linkLocked(t, k, r, e, count)

	ix := s.devices.Load()
	if ix.full() {
		ix = ix.rebuilt(&t.blocks)
		s.devices.Store(ix)
	}
	ix.insert(k.deviceTag(), r) // the ids are stored: now it may be found (T1)
	return r, e, nil
}

// takeSlotLocked returns a free slot: one that was used before, else one of the run, else the first
// of a new run.
func (s *shard) takeSlotLocked(slab *slab, over bool) (Ref, error) {
	if r := s.free; r != 0 {
		s.free = slab.entry(r).nextRef()
		s.freeSlots--
		return r, nil
	}
	if s.runSlots == 0 {
		// As many as it has, so that the entries of a small table lie close together in the caches.
		n := max(1, min(maxRun, s.devices.Load().live))
		first, err := slab.take(n, over)
		if err != nil {
			return 0, err
		}
		s.run, s.runSlots = first, n
	}
	r := s.run
	s.run++
	s.runSlots--
	return r, nil
}

// removeLocked takes the device out unless it has a state again, and frees its slot.
func (s *shard) removeLocked(t *Table, k *key, r Ref, e *Entry) {
	e.acquire()
	if !e.holds(k.user, k.device) || e.lsn.Load() != 0 {
		e.Unclaim()
		return
	}
	ix := s.devices.Load()
	ix.remove(ix.locate(k.deviceTag(), r))
	s.unlinkLocked(t, k, r, e)
	e.armed.Store(0)
	e.own(words{}, words{})
	e.setNext(s.free)
	s.free = r
	s.freeSlots++
	t.givePlace()
}

// refsLocked appends every device's ref.
func (s *shard) refsLocked(refs []Ref) []Ref {
	ix := s.devices.Load()
	for i := range ix.words {
		if _, r := split(ix.words[i].Load()); r != 0 {
			refs = append(refs, r)
		}
	}
	return refs
}
