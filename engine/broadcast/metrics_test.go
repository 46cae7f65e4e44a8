package broadcast

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"
)

// TestDeliveryIsToldOncePerBatch: with the instant of the batch, after the write, and only when
// there was a stream to tell.
func TestDeliveryIsToldOncePerBatch(t *testing.T) {
	var told []int64
	written := func() int { return 0 }
	withRig(t, func(o *Options) {
		o.visits = 1
		o.Delivered = func(received int64) {
			told = append(told, received)
			if n := written(); n != 2*len(told) {
				t.Errorf("told of batch %d after %d writes of 2 for each", len(told), n)
			}
		}
	}, func(t *testing.T, s *rig) {
		batch := func(received int64, users ...int) {
			for _, user := range users {
				s.m.change(userOf(user), 0)
			}
			s.m.flushSince(s.b, 0, len(s.m.queued[0]), received)
			synctest.Wait()
		}
		batch(1, 0) // no streams yet
		a, b := s.subscribe(0), s.subscribe(0)
		before := a.seen().writes + b.seen().writes
		written = func() int { return a.seen().writes + b.seen().writes - before }
		batch(2, 0)
		batch(3, 7, 0, 8) // 7 and 8 have no streams
		batch(4, 7)
		written = func() int { return 2 * len(told) } // of no interest from here on
		batch(0, 0)                                   // not known when it came in
		batch(5, 0)
		s.tell(0, 0) // what was said of a batch does not count for the next
		a.hangUp()
		b.hangUp()
		synctest.Wait()
		batch(6, 0) // no streams any more
		s.subscribe(0)
		batch(7, 0)
	})
	if want := []int64{2, 3, 5, 7}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// TestDeliveryIsGivenUp when the last stream of the user goes before all have been written to.
func TestDeliveryIsGivenUp(t *testing.T) {
	d := delivery{observe: func(int64) { t.Error("observed") }}
	u := &user{last: 3, lap: 2}
	d.begin(u, 1)
	d.lapped(u) // a lap that began before the batch
	d.begin(&user{}, 2)
	if d.user != u || d.received != 1 {
		t.Errorf("measures %+v, want the first", d)
	}
	d.forget(&user{})
	d.forget(u)
	u.lap = 3
	d.lapped(u)
	d.begin(u, 0)
	d.begin(nil, 1)
	if d.user != nil {
		t.Errorf("measures %+v, want nothing", d)
	}
}

// TestQueueKeepsItsFirstInstant when a worker finds two batches in its queue.
func TestQueueKeepsItsFirstInstant(t *testing.T) {
	q := queue{lost: newSourceSet(1)}
	for _, since := range []int64{0, 5, 7} {
		var o stage
		o.add(event{user: userOf(0), lsn: 1}, []byte("x"), 1<<20)
		q.take(0, &o, since, 1<<20)
	}
	if q.since != 5 || len(q.events) != 3 {
		t.Errorf("since %d of %d events, want 5 of 3", q.since, len(q.events))
	}
	q.reset()
	if q.since != 0 {
		t.Error("an empty batch came in at no time")
	}
}

// TestDeliveryToListStreams is told once they have been written to, and not for a turn that they do
// not get.
func TestDeliveryToListStreams(t *testing.T) {
	var told []int64
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(3)
		o := testOptions(newModel())
		o.Codec = p
		c := newFakeConn(t)
		writes := 0
		o.Delivered = func(received int64) {
			told = append(told, received)
			if n := c.seen().writes; n == writes {
				t.Errorf("told of batch %d before the write", received)
			}
		}
		b := mustNew(t, o)
		defer b.Close()
		b.Start(0)
		mustSubscribe(t, b, Subscription{Conn: c, List: &List{
			Users: []uuid.UUID{userOf(0), userOf(1)}, View: ViewUsers, IDs: &cursorIDs{},
		}})
		synctest.Wait()
		for received, user := range []int{0, 0, 1, 2, 1} {
			writes = c.seen().writes
			p.change(user, 0, true) // a turn the first time
			p.flushAt(b, int64(received)+1)
			synctest.Wait()
		}
	})
	if want := []int64{1, 3}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}
