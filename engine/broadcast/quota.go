package broadcast

import "sync"

// quota bounds the follows of list streams: in all, and of each owner. Any goroutine.
type quota struct {
	limit, ownerLimit int // ownerLimit 0: none

	mu      sync.Mutex
	follows int              // guarded by mu
	owners  map[[16]byte]int // follows of each; guarded by mu
}

func (q *quota) init(limit, ownerLimit int) {
	q.limit, q.ownerLimit = limit, ownerLimit
	q.owners = make(map[[16]byte]int)
}

// take counts the follows of a stream that is to open.
func (q *quota) take(owner [16]byte, follows int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.follows+follows > q.limit:
		return ErrTooManyFollows
	case q.ownerLimit > 0 && q.owners[owner]+follows > q.ownerLimit:
		return ErrTooManyFollowsOfOwner
	}
	q.follows += follows
	q.owners[owner] += follows
	return nil
}

// give takes the follows of a stream off the count.
func (q *quota) give(owner [16]byte, follows int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.follows -= follows
	if q.owners[owner] -= follows; q.owners[owner] == 0 {
		delete(q.owners, owner)
	}
}
