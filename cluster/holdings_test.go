package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus/bustest"
	"rollcall/cluster/watch"
	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
	"rollcall/record"
)

// TestHoldDoesNotWait: while a partition is resigned, and a long question still holds it, the
// partition is not this node's any more, and nothing waits to learn that.
func TestHoldDoesNotWait(t *testing.T) {
	s := newHoldings(holdingsConfig{count: 2})
	pt := &s.parts[1]
	pt.owned = &owned{partition: 1}
	o, release := s.hold(1)
	if o == nil || len(s.all()) != 1 {
		t.Fatal("the partition is this node's")
	}
	resigned := make(chan struct{})
	go func() {
		defer close(resigned)
		pt.mu.Lock()
		defer pt.mu.Unlock()
		pt.owned = nil
	}()
	testwait.Until(t, "the partition is being resigned", func() bool {
		if o, release := s.hold(1); o != nil {
			release()
			return false
		}
		return true
	})
	if len(s.all()) != 0 {
		t.Error("it is still named")
	}
	release()
	<-resigned
}

// lead is the lead of the log of one partition, as a node has it that claims nothing in earnest.
type lead struct {
	leads, may, calm        atomic.Bool
	looks, claims, abdicate atomic.Int32
	newest                  atomic.Uint64
}

// holdings are those of the node. check is what a claim does first.
func (l *lead) holdings(check func(ctx context.Context) error) *holdings {
	return newHoldings(holdingsConfig{
		node: "a", count: 1, clock: engine.NewClock(),
		leads: func(string) bool {
			l.looks.Add(1)
			return l.leads.Load()
		},
		check: func(ctx context.Context, _ string) error {
			l.claims.Add(1)
			return check(ctx)
		},
		may: l.may.Load, must: func() bool { return false }, changed: func() {},
		newest:   func(int) uint64 { return l.newest.Load() },
		calm:     l.calm.Load,
		abdicate: func(string) { l.abdicate.Add(1) },
		figures:  newClaimFigures(), logger: slog.New(slog.DiscardHandler),
	})
}

// claimsWithoutEnd is a node that leads a log, and whose claims have no answer.
func claimsWithoutEnd(t *testing.T) (*lead, *holdings) {
	l := new(lead)
	l.leads.Store(true)
	l.may.Store(true)
	s := l.holdings(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	s.start()
	t.Cleanup(s.close)
	return l, s
}

// TestClaimWithoutTheLead: a claim whose answer does not come, since the log is led elsewhere
// meanwhile, is given up at once: it holds up none that is due when the lead is back, and has that
// not be given away.
func TestClaimWithoutTheLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := claimsWithoutEnd(t)
		for n := int32(1); n <= 3; n++ {
			l.leads.Store(true)
			time.Sleep(2 * lookEvery)
			if got := l.claims.Load(); got != n {
				t.Errorf("%d claims were begun when it led for the %d. time", got, n)
			}
			l.leads.Store(false)
			time.Sleep(2 * lookEvery)
			if s.parts[0].busy.Load() {
				t.Error("the claim goes on")
			}
		}
		if n := l.abdicate.Load(); n > 0 {
			t.Errorf("the lead was given away %d times", n)
		}
		l.leads.Store(true)
		time.Sleep(ackTimeout + claimAfterLoss/2)
		if n := l.abdicate.Load(); n != 1 {
			t.Errorf("the lead was given away %d times by a leader without an answer", n)
		}
	})
}

// TestLeadOfANodeThatMayNotClaim: a node that drains, or is isolated, and is elected all the same
// gives the lead away, now and then until another one has it.
func TestLeadOfANodeThatMayNotClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lead)
		s := l.holdings(func(context.Context) error { return nil })
		s.start()
		defer s.close()
		time.Sleep(3 * claimAfterLoss)
		if n := l.abdicate.Load(); n > 0 {
			t.Errorf("what another one leads was given away %d times", n)
		}
		l.leads.Store(true)
		time.Sleep(3*claimAfterLoss - claimAfterLoss/2)
		if n := l.abdicate.Load(); n != 3 || l.claims.Load() > 0 {
			t.Errorf("given away %d times, %d claims", n, l.claims.Load())
		}
	})
}

// TestCalmLooks: while no lead is about to move a node looks less often, and at once when it is
// roused.
func TestCalmLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lead)
		s := l.holdings(nil)
		s.start()
		defer s.close()
		for _, c := range []struct {
			calm  bool
			every time.Duration
		}{{false, lookEvery}, {true, calmEvery}, {false, lookEvery}} {
			l.calm.Store(c.calm)
			s.rouse()
			time.Sleep(calmEvery / 4) // what it slept for before is over
			before := l.looks.Load()
			time.Sleep(time.Second)
			if got := l.looks.Load() - before; got != int32(time.Second/c.every) {
				t.Errorf("%d looks in a second, calm is %v", got, c.calm)
			}
		}
		l.calm.Store(true)
		time.Sleep(time.Second + calmEvery/10)
		before := l.looks.Load()
		for range 3 { // there is no more to see than by one
			s.rouse()
		}
		synctest.Wait()
		if got := l.looks.Load() - before; got < 1 || got > 3 {
			t.Errorf("%d looks when it is roused", got)
		}
	})
}

// TestRefused: after which errors another copy is to lead the log, when it is claimed again, and
// until when the node says that it cannot use its copy.
func TestRefused(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("engine: recovery: %w", err) }
	for _, c := range []struct {
		err      error
		abdicate int32
		wait     time.Duration
		unusable uint64
	}{
		{errors.New("JetStream: not now"), 0, claimAgain, 0},
		{wrapped(jslog.ErrPurged), 0, claimAgain, 0},
		{context.DeadlineExceeded, 1, claimAfterLoss, 0},
		{wrapped(jslog.ErrLost), 1, claimAfterLoss, 0},
		{wrapped(jslog.ErrUnread), 1, claimAfterLoss, 0},
		{wrapped(&jslog.DamageError{}), 1, claimUnusable, 7},
		{wrapped(&jslog.FormatError{}), 1, claimUnusable, untilRestart},
		{wrapped(record.Err), 1, claimUnusable, untilRestart}, // of a kind of a newer version
		{errConfig, 1, claimUnusable, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := new(lead)
			s := l.holdings(nil)
			epoch := uint64(7)
			if errors.Is(c.err, errConfig) { // which is found before the log is claimed
				epoch = 0
			}
			s.refused(&s.parts[0], epoch, c.err)
			if wait := time.Until(s.parts[0].next); wait != c.wait ||
				l.abdicate.Load() != c.abdicate || s.parts[0].unusable.Load() != c.unusable {
				t.Errorf("%v: given away %d times, claimed again after %v, unusable until %d", c.err,
					l.abdicate.Load(), wait, s.parts[0].unusable.Load())
			}
		})
	}
}

// TestUsableAgain: a node says that it cannot use its damaged copy of a log until a checkpoint has
// removed what was there when it claimed it, and where a newer version is needed, all the time.
func TestUsableAgain(t *testing.T) {
	s := new(lead).holdings(nil)
	told := 0
	s.changed = func() { told++ }
	for _, c := range []struct {
		err   error
		first uint64
		want  int
	}{
		{&jslog.DamageError{}, 7, 1}, {&jslog.DamageError{}, 8, 0}, {&jslog.FormatError{}, 99, 1},
	} {
		s.refused(&s.parts[0], 7, c.err)
		if logs := s.unusable(); len(logs) != 1 || logs[0] != streamOf(0) {
			t.Errorf("%v: %q", c.err, logs)
		}
		s.usable(nil) // not known now
		s.usable(map[string]uint64{streamOf(0): c.first})
		if logs := s.unusable(); len(logs) != c.want {
			t.Errorf("%v, the first message is %d: %q", c.err, c.first, logs)
		}
	}
	if told != 3 {
		t.Errorf("the others were told %d times", told)
	}
}

// own gives a node a partition whose log is in memory.
func own(t *testing.T, s *holdings) (pt *part, o *owned) {
	t.Helper()
	log, err := jslog.Claim(t.Context(), jslogtest.New().As("a"),
		jslog.Options{Secret: make([]byte, 32), Logger: s.logger})
	if err != nil {
		t.Fatal(err)
	}
	clock := engine.NewClock()
	hub, err := watch.NewHub(watch.HubOptions{
		Bus: bustest.New().Node("a"), Vouch: log.Vouch, Clock: clock, Logger: s.logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(log, engine.Options{
		Store: log.Store(), Events: hub, Clock: clock, Logger: s.logger, Shards: 4,
	})
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	hub.Open(e)
	pt, o = &s.parts[0], &owned{0, log, e, hub}
	pt.owned, pt.counted = o, o
	return pt, o
}

// TestOvertaken: a node that learns of a newer claim resigns, although it leads the log.
func TestOvertaken(t *testing.T) {
	l := new(lead)
	l.leads.Store(true)
	s := l.holdings(nil)
	pt, o := own(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	pt.resign = cancel
	pt.busy.Store(true)
	l.newest.Store(o.log.Epoch())
	if s.look(pt); ctx.Err() != nil {
		t.Error("it resigns from its own claim")
	}
	l.newest.Add(1)
	if s.look(pt); ctx.Err() == nil {
		t.Error("it goes on with a claim that is not the newest")
	}
	s.resigned(pt, o)
}

// TestCountersDoNotFall: while a partition is resigned, however long, and after that.
func TestCountersDoNotFall(t *testing.T) {
	s := new(lead).holdings(nil)
	pt, o := own(t, s)
	hb := new(engine.Heartbeat)
	hb.User, hb.Device, hb.Seq, hb.TTLMS = uuid.New(), uuid.New(), 1, 60_000
	hb.Status, hb.Source = engine.Online, []byte("d")
	if r := o.engine.Heartbeat(hb); r.Outcome != engine.Accepted {
		t.Fatalf("%+v", r)
	}
	_, release := s.hold(0)
	resigned := make(chan struct{})
	go func() {
		defer close(resigned)
		s.resigned(pt, o)
	}()
	testwait.Until(t, "the partition is being resigned", func() bool { return len(s.all()) == 0 })
	if n := s.stats().Accepted; n != 1 {
		t.Errorf("%d heartbeats while it is resigned", n)
	}
	release()
	<-resigned
	if sum := s.stats(); sum.Accepted != 1 || sum.Devices != 0 {
		t.Errorf("%d heartbeats and %d devices afterwards", sum.Accepted, sum.Devices)
	}
}
