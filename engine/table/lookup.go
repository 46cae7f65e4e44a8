package table

import "github.com/google/uuid"

// Lookup is one device to look up with others, and what was found.
type Lookup struct {
	User, Device uuid.UUID
	Ref          Ref    // 0: unknown
	Entry        *Entry // nil: unknown

	key   key
	index *index
}

// FindAll does Find for each of ls. In a large table a look-up is a chain of cache misses: a word
// of the index, then the two lines of the entry. So it walks all of ls once for each link, and the
// walks that miss do nothing else: then the loads of many look-ups fit into what a processor looks
// ahead, and are in flight together. With the hashing in the first walk and the probing in the
// second it took twice as long. Some tens of look-ups are best; their lines must stay in the
// nearest cache.
func (t *Table) FindAll(ls []Lookup) {
	for i := range ls {
		l := &ls[i]
		t.setKey(&l.key, &l.User, &l.Device)
	}
	for i := range ls {
		l := &ls[i]
		l.index = t.shard(&l.key).devices.Load()
	}
	for i := range ls {
		l := &ls[i]
		l.index.words[l.key.deviceTag()&l.index.mask].Load()
	}
	for i := range ls {
		l := &ls[i]
		l.Ref, l.Entry = l.index.likely(t.slab, l.key.deviceTag())
	}
	for i := range ls {
		if e := ls[i].Entry; e != nil {
			e.user[0].Load()
			e.updatedSource.Load()
		}
	}
	for i := range ls {
		l := &ls[i]
		if l.Entry != nil && !l.Entry.holds(l.key.user, l.key.device) {
			l.Ref, l.Entry = t.shard(&l.key).find(t.slab, &l.key)
		}
	}
}

// likely returns the first entry with the tag, which nearly always is the right one, without
// looking at it; nil: none.
func (ix *index) likely(slab *slab, tag uint32) (Ref, *Entry) {
	for i := tag & ix.mask; ; i = (i + 1) & ix.mask {
		w := ix.words[i].Load()
		if w == vacant {
			return 0, nil
		}
		if found, r := split(w); found == tag && r != 0 {
			return r, slab.entry(r)
		}
	}
}

// UserLookup is one user to look up with others, and its devices.
type UserLookup struct {
	User    uuid.UUID
	Devices []Ref // what Table.Devices appends; valid as long as FindDevices' refs are

	key   key
	index *index
	last  *Entry
}

// FindDevices does Devices for each of us, and has the devices' entries loaded, a miss at a time
// for all as FindAll does: a word of the users' index, the entry that it names, and the next one of
// the user. These are looked at without the mutex and may be wrong, which costs no more than the
// time. It appends the refs to refs, and returns it.
func (t *Table) FindDevices(us []UserLookup, refs []Ref) []Ref {
	t.TouchUsers(us)
	for i := range us {
		u := &us[i]
		s := t.shard(&u.key)
		from := len(refs)
		s.mu.Lock()
		refs = s.devicesLocked(t.slab, &u.key, refs)
		s.mu.Unlock()
		u.Devices = refs[from:len(refs):len(refs)]
	}
	return refs
}

// TouchUsers is the first half of FindDevices: it has what leads to the users' devices loaded, and
// two of the devices of each, and takes no lock. It costs the same for a user with very many.
func (t *Table) TouchUsers(us []UserLookup) {
	for i := range us {
		u := &us[i]
		t.setKey(&u.key, &u.User, &uuid.Nil)
	}
	for i := range us {
		u := &us[i]
		u.index = t.shard(&u.key).users.Load()
	}
	for i := range us {
		u := &us[i]
		u.index.words[u.key.userTag()&u.index.mask].Load()
	}
	for i := range us {
		u := &us[i]
		_, u.last = u.index.likely(t.slab, u.key.userTag())
	}
	for i := range us {
		if e := us[i].last; e != nil {
			e.user[0].Load()
			e.next.Load()
		}
	}
	for i := range us {
		if e := us[i].last; e != nil {
			if next := e.nextRef(); next != 0 && e.holdsUser(us[i].key.user) {
				e = t.slab.entry(next)
				e.user[0].Load()
				e.next.Load()
			}
		}
	}
}
