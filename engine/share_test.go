package engine

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
)

// shared is a broadcaster of several engines: each source has its own.
type shared struct{ engines []*Engine }

func (s *shared) AppendFrame(dst, rec []byte) []byte {
	return s.engines[0].Codec().AppendFrame(dst, rec)
}

func (s *shared) Ahead(source broadcast.Source, users []uuid.UUID) {
	s.engines[source].Codec().Ahead(source, users)
}

func (s *shared) AppendDevices(dst []uint32, source broadcast.Source, user uuid.UUID) []uint32 {
	return s.engines[source].Codec().AppendDevices(dst, source, user)
}

func (s *shared) AppendState(
	dst []byte, source broadcast.Source, user uuid.UUID, device uint32, after, through uint64,
) (text []byte, newer uint64) {
	return s.engines[source].Codec().AppendState(dst, source, user, device, after, through)
}

func (s *shared) Forgotten(source broadcast.Source, user uuid.UUID) uint64 {
	return s.engines[source].Codec().Forgotten(source, user)
}

func (s *shared) Turn(rec []byte) bool { return s.engines[0].Codec().Turn(rec) }

func (s *shared) AppendUserFrame(dst, rec []byte, lingers bool) []byte {
	return s.engines[0].Codec().AppendUserFrame(dst, rec, lingers)
}

func (s *shared) Lingers(rec []byte, linger time.Duration) time.Duration {
	return s.engines[0].Codec().Lingers(rec, linger)
}

func (s *shared) AppendUser(
	dst []byte, source broadcast.Source, user uuid.UUID, after, through uint64,
	linger time.Duration,
) (text []byte, a broadcast.Aggregate) {
	return s.engines[source].Codec().AppendUser(dst, source, user, after, through, linger)
}

// newShared returns options of so many engines that share a clock and a broadcaster.
func newShared(t testing.TB, engines int) (*shared, *broadcast.Broadcaster, []Options) {
	t.Helper()
	s := &shared{make([]*Engine, engines)}
	b, err := broadcast.New(broadcast.Options{Codec: s, Sources: engines})
	if err != nil {
		t.Fatal(err)
	}
	clock := NewClock()
	options := make([]Options, engines)
	for i := range options {
		options[i] = Options{Clock: clock, Events: b, Source: broadcast.Source(i)}
	}
	b.Start(clock.Nanos())
	return s, b, options
}

// close ends the engines and their logs.
func (s *shared) close() {
	for _, e := range s.engines {
		e.log.(*memLog).close()
		_ = e.Close(context.Background())
	}
}

// TestEnginesShareABroadcaster: each user's stream gets a snapshot of what its engine has
// recovered, and then what happens there.
func TestEnginesShareABroadcaster(t *testing.T) {
	s, b, options := newShared(t, 2)
	defer s.close()
	defer b.Close() // before the tables that it reads
	var beats [2]*Heartbeat
	for i, o := range options {
		log := newMemLog()
		beats[i] = newHeartbeat(uint64(5+i), 60_000)
		hb := beats[i]
		for range 3 * i { // their LSNs are not alike
			log.keep(false, uuid.New(), uuid.New(), 1, "other")
		}
		log.keep(false, hb.User, hb.Device, hb.Seq, "before")
		e, err := New(log, o)
		if err != nil {
			t.Fatal(err)
		}
		s.engines[i] = e
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
	}
	var conns [2]*testConn
	for i, hb := range beats {
		conns[i] = newTestConn()
		sub := broadcast.Subscription{Source: options[i].Source, User: hb.User, Conn: conns[i]}
		if err := b.Subscribe(sub); err != nil {
			t.Fatal(err)
		}
		if f := conns[i].waitFrames(t, 1)[0]; f.device != hb.Device || f.seq != hb.Seq ||
			f.source != "before" {
			t.Errorf("the snapshot of engine %d: %+v", i, f)
		}
	}
	for i, hb := range beats {
		hb.Seq += 10
		if r := s.engines[i].Heartbeat(hb); r.Outcome != Accepted {
			t.Fatalf("%+v", r)
		}
		if f := conns[i].waitFrames(t, 2)[1]; f.device != hb.Device || f.seq != hb.Seq ||
			f.source != "test" {
			t.Errorf("the event of engine %d: %+v", i, f)
		}
	}
}
