package broadcast

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"
)

// looking counts the states that a codec is asked for.
type looking struct {
	*model
	looks  atomic.Int64
	onLook func(looks int64) // nil: nothing
}

func (l *looking) AppendState(
	dst []byte, source Source, user uuid.UUID, device uint32, after, through uint64,
) (text []byte, newer uint64) {
	n := l.looks.Add(1)
	if l.onLook != nil {
		l.onLook(n)
	}
	return l.model.AppendState(dst, source, user, device, after, through)
}

// withCrowd is a rig whose user 0 has so many devices, before anything follows it.
func withCrowd(t *testing.T, devices int, test func(*testing.T, *rig, *looking)) {
	t.Helper()
	var l *looking
	counted := func(o *Options) {
		l = &looking{model: o.Codec.(*model)}
		o.Codec = l
	}
	withRig(t, counted, func(t *testing.T, s *rig) {
		for device := range devices {
			s.m.change(userOf(0), device)
		}
		s.m.flushAll(s.b)
		synctest.Wait()
		test(t, s, l)
	})
}

// TestSnapshotOfACrowdIsBounded: a stream of a user with very many devices holds a piece at a time,
// goes on when its client reads, and has each device once.
func TestSnapshotOfACrowdIsBounded(t *testing.T) {
	const devices = 20_000
	withCrowd(t, devices, func(t *testing.T, s *rig, _ *looking) {
		c := newFakeConn(t)
		c.room = 100
		mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: c, Head: []byte(testHead)})
		synctest.Wait()
		for read := 0; ; read++ {
			st := s.b.Stats()
			if st.InSnapshot == 0 && st.PendingBytes == 0 {
				break
			}
			if st.PendingBytes > 2*pieceCost || read > devices {
				t.Fatalf("%d bytes are pending for one stream, after %d reads",
					st.PendingBytes, read)
			}
			if read == 3 { // both in devices that it has, and has not
				s.tell(0, 1)
				s.tell(0, devices-1)
			}
			c.allow(20_000)
			synctest.Wait()
		}
		c.allow(-1)
		synctest.Wait()
		r := readTold(t, c.seen().received, testHead, false)
		s.m.checkLast(t, userOf(0), r)
		if r.frames != devices+1 { // device 1 twice; the other one's first state was not seen
			t.Errorf("%d frames for %d devices of which two changed meanwhile", r.frames, devices)
		}
	})
}

// TestStreamsShareASnapshot: what a snapshot costs does not grow with the streams that open
// together, nor with those that open later while the user has no event, whatever others do.
func TestStreamsShareASnapshot(t *testing.T) {
	const devices, streams = 1000, 50
	withCrowd(t, devices, func(t *testing.T, s *rig, l *looking) {
		conns := make([]*fakeConn, streams)
		for i := range conns {
			if conns[i] = subscribe(t, s.b, userOf(0)); i%10 == 9 {
				synctest.Wait()
				s.tell(7, 0)
			}
		}
		synctest.Wait()
		if n := l.looks.Load(); n > 2*devices {
			t.Errorf("%d looks at %d devices for %d streams", n, devices, streams)
		}
		s.tell(0, 3)
		conns = append(conns, s.subscribe(0))
		for _, c := range conns {
			s.m.checkLast(t, userOf(0), readTold(t, c.seen().received, testHead, true))
		}
	})
}

// TestNoEventWaitsForASnapshot: an event of another user is told after a turn's worth of a crowd's
// snapshots at most, however many of them are on their way.
func TestNoEventWaitsForASnapshot(t *testing.T) {
	const devices = 30_000
	withCrowd(t, devices, func(t *testing.T, s *rig, l *looking) {
		var toldAt atomic.Int64
		other := s.subscribe(1)
		other.onWrite = func() { toldAt.CompareAndSwap(0, l.looks.Load()) }
		const at = 5000
		l.onLook = func(looks int64) {
			if looks == at {
				s.m.change(userOf(1), 0)
				s.m.flushAll(s.b)
			}
		}
		for range 30 {
			subscribe(t, s.b, userOf(0))
			s.m.change(userOf(0), 0) // so that each has a snapshot of its own
			s.m.flushAll(s.b)
		}
		synctest.Wait()
		turn := int64(turnBudget+pieceCost) / lookCost
		if n := toldAt.Load(); n < at || n > at+turn {
			t.Errorf("an event that came at look %d was told at %d, of %d", at, n, l.looks.Load())
		}
	})
}

// TestEveryEventDuringASnapshot: a stream that keeps up is told each event that comes while it is
// in the middle of a snapshot, also when the user's other streams have had them long since. Those
// whose clients do not read make the server keep a bounded number of them.
func TestEveryEventDuringASnapshot(t *testing.T) {
	const devices = 20_000
	withCrowd(t, devices, func(t *testing.T, s *rig, l *looking) {
		s.subscribe(0)
		slow := newFakeConn(t)
		slow.room = 1000
		mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: slow})
		synctest.Wait()
		before := l.looks.Load()
		l.onLook = func(looks int64) {
			if n := looks - before; n%5000 == 0 && n < devices {
				for range 3 {
					s.m.change(userOf(0), 7)
					s.m.flushAll(s.b)
				}
			}
		}
		c := s.subscribe(0)
		r := readTold(t, c.seen().received, testHead, true)
		s.m.checkLast(t, userOf(0), r)
		if seq := r.last[7].seq; seq < 4 || r.gaps != 0 {
			t.Errorf("told %d changes of a device during the snapshot, and not %d", seq, r.gaps)
		}
		w, most := s.b.workers[0], 0
		for range 50_000 {
			s.m.change(userOf(0), 7)
			if s.m.flushAll(s.b); s.m.lsn[0]%1000 == 0 {
				synctest.Wait()
				most = max(most, w.fans.bytes)
			}
		}
		limit := w.fans.userLimit / 4
		if len(w.fans.holds) != 1 || most < limit/2 || most > limit+10_000 {
			t.Errorf("at most %d bytes of frames are kept for a stream that does not read", most)
		}
		if st := s.b.Stats(); st.Conflated != 0 {
			t.Errorf("a slow stream made the user's other streams lose %d events", st.Conflated)
		}
		slow.hangUp()
		synctest.Wait()
		if len(w.fans.holds) != 0 || w.fans.bytes != 0 {
			t.Errorf("%d bytes of frames are kept for a stream that has gone", w.fans.bytes)
		}
	})
}

// TestEndsInTheMiddleOfASnapshot: a client that goes, a drain and a close give everything back.
func TestEndsInTheMiddleOfASnapshot(t *testing.T) {
	for name, end := range map[string]func(*rig, *fakeConn){
		"gone":   func(_ *rig, c *fakeConn) { c.hangUp() },
		"reset":  func(_ *rig, c *fakeConn) { c.mu.Lock(); c.err = errClosed; c.mu.Unlock(); c.allow(1) },
		"closed": func(s *rig, _ *fakeConn) { s.b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			withCrowd(t, 5000, func(t *testing.T, s *rig, _ *looking) {
				c := newFakeConn(t)
				c.room = 40_000
				mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: c})
				synctest.Wait()
				if st := s.b.Stats(); st.InSnapshot != 1 {
					t.Fatalf("%+v", st)
				}
				end(s, c)
				synctest.Wait()
				s.b.Close()
				st := s.b.Stats()
				if st.InSnapshot != 0 || st.PendingBytes != 0 || st.Streams != 0 {
					t.Errorf("%+v", st)
				}
				for _, w := range s.b.workers {
					for _, sn := range w.snapshots.newest {
						if sn != w.snapshots.last || sn.streams != 0 {
							t.Errorf("a snapshot is kept for %d streams", sn.streams)
						}
					}
				}
			})
		})
	}
}
