package broadcast

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// withSources tests a broadcaster of one worker and some sources.
func withSources(t *testing.T, sources int, change func(*Options), test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newModelOf(sources)
		o := testOptions(m)
		if change != nil {
			change(&o)
		}
		s := &rig{t: t, m: m, b: mustNew(t, o), now: 100 * second}
		defer s.b.Close()
		s.b.Start(s.now)
		test(t, s)
	})
}

// TestLoseConflatesItsSource (B3, B7): streams of the source that lost events get the newest states
// once and go on from there; those of other sources get every frame, those in the same queue too.
func TestLoseConflatesItsSource(t *testing.T) {
	var gate sync.Mutex
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		kept, lost := s.subscribe(0), s.subscribe(1)
		kept.onWrite = func() { pass(&gate) }
		gate.Lock()
		s.tellGated(0) // the worker waits in this write, and its queue grows
		for range 5 {
			s.m.change(userOf(0), 0)
			s.m.change(userOf(1), 0)
			s.m.change(userOf(1), 1)
			s.m.flushAll(s.b)
		}
		s.m.change(userOf(1), 0)
		s.m.change(userOf(1), 0)
		s.m.lose(s.b, 1, 2, 1)
		s.m.change(userOf(0), 0)
		s.m.change(userOf(1), 1)
		s.m.flushAll(s.b)
		gate.Unlock()
		synctest.Wait()
		if r := kept.told(); r.gaps != 0 || r.frames != 7 {
			t.Errorf("the other source's stream was told %d of 7 events, %d gaps", r.frames, r.gaps)
		}
		s.m.checkLast(t, userOf(1), lost.told())
		if r := lost.told(); r.frames != 2 {
			t.Errorf("the lost source's stream was told %d frames, want the newest 2", r.frames)
		}
		if st := s.b.Stats(); st.Conflated != 1 || st.Overflows != 0 || st.DroppedEvents != 10+2+1 {
			t.Errorf("%+v", st)
		}
		s.tell(1, 0)
		s.m.checkLast(t, userOf(1), lost.told())
		if n := s.b.Stats().Conflated; n != 1 {
			t.Errorf("conflated %d times after one Lose", n)
		}
	})
}

// tellGated is tell while the worker cannot come to rest.
func (s *rig) tellGated(user int) {
	s.m.change(userOf(user), 0)
	s.m.flushAll(s.b)
	for s.b.Stats().QueueBytes > 0 { // until the worker has taken it
		runtime.Gosched()
	}
}

// TestSourceBeginsLate (I3): a stream that was opened before its source began gets the states then,
// and what follows.
func TestSourceBeginsLate(t *testing.T) {
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		for range 3 {
			s.m.change(userOf(1), 0)
		}
		early, other := s.subscribe(1), s.subscribe(0)
		if r := early.told(); r.frames != 0 {
			t.Errorf("told %d frames before the source began", r.frames)
		}
		_, through := s.m.take(1, 3)
		s.b.Lose(1)
		s.b.Flush(1, through, 0)
		synctest.Wait()
		s.m.checkLast(t, userOf(1), early.told())
		late := s.subscribe(1)
		s.tell(1, 0)
		for _, c := range []*fakeConn{early, late} {
			s.m.checkLast(t, userOf(1), c.told())
			if r := c.told(); r.frames != 2 || r.gaps != 0 {
				t.Errorf("told %+v, want the state and one event", r)
			}
		}
		if n := other.seen().writes; n != 1 {
			t.Errorf("a stream of another source was written to %d times", n)
		}
	})
}

// TestThroughIsKeptBySource (B2): a source's Flush does not move another source's through.
func TestThroughIsKeptBySource(t *testing.T) {
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		for range 10 {
			s.tell(0, 0)
		}
		s.m.change(userOf(1), 0) // LSN 1 of source 1: in the table, not flushed
		c := s.subscribe(1)
		if r := c.told(); r.frames != 0 {
			t.Errorf("told %d frames of what was not flushed", r.frames)
		}
		s.m.flushAll(s.b)
		synctest.Wait()
		s.m.checkLast(t, userOf(1), c.told())
	})
}

func TestFlushNeverMovesBack(t *testing.T) {
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		s.tell(0, 0)
		s.b.Flush(0, 0, 0)
		if r := s.subscribe(0).told(); r.frames != 1 {
			t.Errorf("a snapshot after an older Flush has %d frames", r.frames)
		}
	})
}

// TestWrongSourcesPanic: LSNs of two sources cannot be compared, and a source needs its place.
func TestWrongSourcesPanic(t *testing.T) {
	b := mustNew(t, testOptions(newModelOf(2)))
	defer b.Close()
	u := &user{source: 1}
	u.mustBeOf(1)
	for what, wrong := range map[string]func(){
		"a user of two sources":      func() { u.mustBeOf(0) },
		"a stream of a third source": func() { b.Subscribe(Subscription{Source: 2}) },
		"an event of a third source": func() { b.Publish(2, userOf(0), 1, nil) },
		"a batch of a third source":  func() { b.Flush(2, 1, 0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", what)
				}
			}()
			wrong()
		}()
	}
}
