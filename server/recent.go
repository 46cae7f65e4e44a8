package server

import (
	"container/list"
	"slices"
	"sync"
)

const (
	// maxRecentBytes bounds the lists that are remembered: those of 80,000 streams of 100 users
	// that differ.
	maxRecentBytes = 64 << 20
	// recentCost is what a list costs beside its users, in bytes.
	recentCost = 192
)

// recentLists remember which users were followed by the lists of cursors, so that a client that
// comes back with some users more or fewer gets only those whole. The least recently used are
// forgotten first: such a client gets a whole snapshot. Any goroutine may use it.
type recentLists struct {
	limit int // bytes

	mu       sync.Mutex
	bytes    int                      // guarded by mu
	order    list.List                // of *recentList, the last used first; guarded by mu
	byDigest map[uint64]*list.Element // guarded by mu
}

// recentList is immutable.
type recentList struct {
	digest uint64   // cursor.History.List
	users  []uint64 // cursor.History.User of each, sorted
}

func (l *recentList) bytes() int { return recentCost + 8*len(l.users) }

func newRecentLists(limit int) *recentLists {
	return &recentLists{limit: limit, byDigest: map[uint64]*list.Element{}}
}

// find returns the list of a digest; nil: it is not known, or not any more.
func (r *recentLists) find(digest uint64) *recentList {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.byDigest[digest]
	if at == nil {
		return nil
	}
	r.order.MoveToFront(at)
	return at.Value.(*recentList)
}

// add remembers a list, whose users it makes if the list is new.
func (r *recentLists) add(digest uint64, users func() []uint64) {
	if r.find(digest) != nil {
		return
	}
	l := &recentList{digest, users()}
	slices.Sort(l.users)
	if l.bytes() > r.limit {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDigest[digest] != nil { // another goroutine was faster
		return
	}
	r.byDigest[digest] = r.order.PushFront(l)
	for r.bytes += l.bytes(); r.bytes > r.limit; {
		oldest := r.order.Remove(r.order.Back()).(*recentList)
		r.bytes -= oldest.bytes()
		delete(r.byDigest, oldest.digest)
	}
}

// size is how many lists are remembered.
func (r *recentLists) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.order.Len()
}

// has reports whether a user, as cursor.History.User has it, is in the list.
func (l *recentList) has(user uint64) bool {
	_, found := slices.BinarySearch(l.users, user)
	return found
}
