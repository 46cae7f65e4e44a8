package broadcast

import (
	"testing"

	"github.com/google/uuid"
)

// TestQuota: the follows of all, the follows and the streams of an owner, and what a stream gives
// back.
func TestQuota(t *testing.T) {
	var q quota
	q.init(&Options{MaxFollows: 20, MaxFollowsPerOwner: 12, MaxStreamsPerUser: 2})
	take := func(owner byte, follows int, backend bool, want error) {
		t.Helper()
		s := Subscription{
			Owner: [16]byte{owner},
			List:  &List{Users: make([]uuid.UUID, follows), Backend: backend},
		}
		if err := q.take(&s); err != want {
			t.Errorf("%d follows of %d: %v, want %v", follows, owner, err, want)
		}
	}
	take(1, 10, false, nil)
	take(1, 3, false, ErrTooManyFollowsOfOwner)
	take(1, 1, false, nil)
	take(1, 1, false, ErrTooManyOfUser)
	take(1, 1, true, nil)
	take(2, 9, true, ErrTooManyFollows)
	take(2, 8, false, nil)
	for _, follows := range []int{10, 1, 1} {
		q.give([16]byte{1}, follows)
	}
	take(3, 12, false, nil)
	q.give([16]byte{3}, 12)
	q.give([16]byte{2}, 8)
	if q.follows != 0 || len(q.owners) != 0 {
		t.Errorf("left: %d follows, %v", q.follows, q.owners)
	}
}
