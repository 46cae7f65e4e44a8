package broadcast

import "sync"

// quota bounds list streams: the follows in all, and the follows and the streams of each owner. Any
// goroutine.
type quota struct {
	limit, ownerLimit, streamLimit int // of follows, of an owner's, of an owner's streams; 0: none

	mu      sync.Mutex
	follows int                  // guarded by mu
	owners  map[[16]byte]holding // guarded by mu
}

// holding is what the list streams of one owner take.
type holding struct{ follows, streams int }

func (q *quota) init(o *Options) {
	q.limit, q.ownerLimit, q.streamLimit = o.MaxFollows, o.MaxFollowsPerOwner, o.MaxStreamsPerUser
	q.owners = make(map[[16]byte]holding)
}

// take counts a stream that is to open.
func (q *quota) take(s *Subscription) error {
	follows := len(s.List.Users)
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.owners[s.Owner]
	switch {
	case q.follows+follows > q.limit:
		return ErrTooManyFollows
	case s.List.Backend:
	case q.ownerLimit > 0 && h.follows+follows > q.ownerLimit:
		return ErrTooManyFollowsOfOwner
	case q.streamLimit > 0 && h.streams >= q.streamLimit:
		return ErrTooManyOfUser
	}
	q.follows += follows
	q.owners[s.Owner] = holding{h.follows + follows, h.streams + 1}
	return nil
}

// give takes a stream with so many follows off the count.
func (q *quota) give(owner [16]byte, follows int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.follows -= follows
	h := q.owners[owner]
	if h = (holding{h.follows - follows, h.streams - 1}); h == (holding{}) {
		delete(q.owners, owner)
	} else {
		q.owners[owner] = h
	}
}
