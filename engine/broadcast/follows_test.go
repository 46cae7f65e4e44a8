package broadcast

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/testseed"
)

// any reports whether there is a user who may have a stream.
func (f *follows) any() bool {
	for i := range f.bits {
		if f.bits[i].Load() != 0 {
			return true
		}
	}
	return false
}

// TestFollowsAgainstAMap: every user with a stream is one who may have one, and few others are.
func TestFollowsAgainstAMap(t *testing.T) {
	const users = followBuckets / 16
	rng := rand.New(rand.NewPCG(testseed.Of(t), 0))
	var f follows
	streams := make(map[int]int)
	for range 20 * users {
		u := rng.IntN(users)
		if hash := hashOf(userOf(u)); streams[u] > 0 && rng.IntN(2) == 0 {
			f.remove(hash)
			streams[u]--
		} else if rng.IntN(3) == 0 {
			f.add(hash)
			streams[u]++
		}
	}
	wrong := 0
	for u := range users {
		switch has := f.has(hashOf(userOf(u))); {
		case streams[u] > 0 && !has:
			t.Fatalf("a user with %d streams is left out", streams[u])
		case streams[u] == 0 && has:
			wrong++
		}
	}
	if wrong > users/4 { // one in sixteen, at most, is expected
		t.Errorf("%d users of %d are taken for others", wrong, users)
	}
	for u, n := range streams {
		for range n {
			f.remove(hashOf(userOf(u)))
		}
	}
	if f.any() {
		t.Error("there are streams left")
	}
}

// TestEventsThatNoStreamGetsAreNotCopied, nor do they wake the worker.
func TestEventsThatNoStreamGetsAreNotCopied(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		stage := &s.b.batches[0].stages[0]
		s.m.inBatch = func() {
			if len(stage.events) > 1 {
				t.Errorf("%d events are copied for one stream", len(stage.events))
			}
		}
		other := 1
		for hashOf(userOf(other))>>(64-followBits) == hashOf(userOf(0))>>(64-followBits) {
			other++
		}
		c := s.subscribe(0)
		turns := s.b.Stats().Turns
		for range 100 {
			s.m.change(userOf(other), 0)
		}
		s.m.flushAll(s.b)
		synctest.Wait()
		if n := s.b.Stats().Turns; n != turns {
			t.Errorf("the worker took %d turns for events of another user", n-turns)
		}
		s.m.change(userOf(other), 0)
		s.tell(0, 0)
		if r := c.told(); r.frames != 1 {
			t.Errorf("the stream was told %d events, not its own", r.frames)
		}
		c.hangUp()
		synctest.Wait()
		s.m.change(userOf(0), 0)
		s.m.publish(s.b, 0, s.m.queued[0][0])
		if len(stage.events) != 0 {
			t.Error("an event is copied for a stream that is gone")
		}
	})
}

// TestTimeWakesNoWorkerWithoutStreams; a stream that comes later has the time all the same.
func TestTimeWakesNoWorkerWithoutStreams(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		turns := s.b.Stats().Turns
		now := int64(0)
		for range 100 {
			now += int64(time.Second)
			s.b.Tick(now)
			synctest.Wait()
		}
		if n := s.b.Stats().Turns; n != turns {
			t.Errorf("the worker took %d turns for the time alone", n-turns)
		}
		s.subscribe(0)
		synctest.Wait()
		if got := s.b.workers[0].mail.nowNanos; got != now {
			t.Errorf("a stream came at %v, for the worker at %v", now, got)
		}
		turns = s.b.Stats().Turns
		s.b.Tick(now + 1)
		synctest.Wait()
		if s.b.Stats().Turns == turns {
			t.Error("a worker with a stream is not told the time")
		}
	})
}

// TestStreamOpensBehindTheBatch (B9): a stream that is asked for while a batch is published, after
// its user's event was left out, has that event in its snapshot, and those after it as frames. A
// stream of another source's user opens at once.
func TestStreamOpensBehindTheBatch(t *testing.T) {
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		s.tell(0, 0)
		s.m.change(userOf(0), 0)
		batch, through := s.m.take(0, 1)
		s.m.publish(s.b, 0, batch[0])
		c, other := s.subscribe(0), s.subscribe(1)
		if n := len(c.seen().received); n != 0 {
			t.Errorf("it was sent %d bytes before the batch is over", n)
		}
		if len(other.seen().received) == 0 {
			t.Error("a stream waits for another source's batch")
		}
		s.b.Flush(0, through, 0)
		synctest.Wait()
		s.m.checkLast(t, userOf(0), c.told())
		s.tell(0, 0)
		s.m.checkLast(t, userOf(0), c.told())
		if r := c.told(); r.frames != 2 || r.gaps != 0 {
			t.Errorf("told %d frames, %d gaps; want the snapshot and one event", r.frames, r.gaps)
		}
	})
}

// TestCloseDoesNotWaitForTheBatch (B5): a stream that waits for a batch is closed by Close.
func TestCloseDoesNotWaitForTheBatch(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		s.m.change(userOf(0), 0)
		batch, _ := s.m.take(0, 1)
		s.m.publish(s.b, 0, batch[0])
		c := s.subscribe(0)
		s.b.Close()
		if n := c.seen().closed; n != 1 {
			t.Errorf("closed %d times", n)
		}
	})
}
