package engine

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/record"
)

// stops is when a process in a bubble is stopped. Goroutines of the process that call run, work or
// clock stand still meanwhile; devices go on.
type stops struct {
	began time.Time

	mu    sync.Mutex
	spans []span // guarded by mu: ascending, without overlap
}

type span struct{ from, to time.Duration }

func (s span) length() time.Duration { return s.to - s.from }

func (s *stops) now() time.Duration { return time.Since(s.began) }

// next returns the stop that lasts or comes next.
func (s *stops) next() (span, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, p := range s.spans {
		if now < p.to {
			return p, true
		}
	}
	return span{}, false
}

// at returns the stop that lasts at an instant.
func (s *stops) at(t time.Duration) (span, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.spans {
		if p.from <= t && t < p.to {
			return p, true
		}
	}
	return span{}, false
}

// stop stops the process now.
func (s *stops) stop(for_ time.Duration) {
	s.mu.Lock()
	s.spans = append(s.spans, span{s.now(), s.now() + for_})
	s.mu.Unlock()
	s.run()
}

// run returns when the process is not stopped.
func (s *stops) run() {
	for p, ok := s.next(); ok && p.from <= s.now(); p, ok = s.next() {
		time.Sleep(p.to - s.now())
	}
}

// work returns when the process has run for so long.
func (s *stops) work(d time.Duration) {
	for s.run(); d > 0; s.run() {
		step := d
		if p, ok := s.next(); ok {
			step = min(step, p.from-s.now())
		}
		time.Sleep(step)
		d -= step
	}
}

// ran is how long the process ran between two instants.
func (s *stops) ran(from, to time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	ran := to - from
	for _, p := range s.spans {
		ran -= max(0, min(p.to, to)-max(p.from, from))
	}
	return ran
}

// offlines is an Events that notes who went offline when.
type offlines struct {
	now func() time.Duration

	mu sync.Mutex
	at map[uuid.UUID]time.Duration // guarded by mu; by device
}

func (o *offlines) Publish(_ broadcast.Source, _ uuid.UUID, _ uint64, rec []byte) {
	if r := record.View(rec); !r.State().Online {
		o.mu.Lock()
		o.at[r.Device()] = o.now()
		o.mu.Unlock()
	}
}

func (o *offlines) Flush(broadcast.Source, uint64, int64) {}
func (o *offlines) Lose(broadcast.Source)                 {}
func (o *offlines) Tick(int64)                            {}

func (o *offlines) of(device uuid.UUID) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, is := o.at[device]
	return at, is
}

// stopped is an engine with its loops, in a bubble, whose process stops at times.
type stopped struct {
	*Engine
	*stops
	offlines *offlines
	log      *memLog
}

func startStopped(t *testing.T, o Options, spans ...span) *stopped {
	t.Helper()
	s := &stops{began: time.Now(), spans: spans}
	r := &stopped{stops: s, log: newMemLog(),
		offlines: &offlines{now: s.now, at: make(map[uuid.UUID]time.Duration)}}
	clock := NewClock()
	o.Clock = func() Instant { s.run(); return clock() }
	o.Shards, o.Events, o.Logger = 4, r.offlines, slog.New(slog.DiscardHandler)
	var err error
	if r.Engine, err = New(r.log, o); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *stopped) shut() {
	r.Drain(context.Background(), 0)
	r.log.close()
	r.Close(context.Background())
}

// unread is how much of a stop the process takes, at most, to read what came meanwhile.
const unread = 0.9

// receive applies a heartbeat that was sent now, as late as a server that keeps up may come to it.
func (r *stopped) receive(t *testing.T, hb *Heartbeat, sent time.Duration) {
	if p, ok := r.at(sent); ok {
		r.run()
		least := time.Duration(float64(min(p.length(), time.Second)) * unread)
		r.work(least - r.ran(p.to, r.now()))
	}
	r.run()
	if res := r.Heartbeat(hb); res.Outcome != Accepted {
		t.Errorf("seq %d: %+v", hb.Seq, res)
	}
}

// beat sends heartbeats, each every after the one before, until an instant. It returns when the
// last was applied.
func (r *stopped) beat(t *testing.T, hb *Heartbeat, every, until time.Duration) time.Duration {
	for next := r.now(); ; {
		sent := next
		hb.Seq++
		r.receive(t, hb, sent)
		if next += every; next >= until {
			return r.now()
		}
		time.Sleep(next - r.now()) // at once, for what was sent while the server read the last
	}
}

// TestStoppedProcess: a device that sends in time does not go offline while the process is stopped
// at times for less than a second, or after; a silent one does (I8).
func TestStoppedProcess(t *testing.T) {
	const ms = time.Millisecond
	burst := func(from, stop, run time.Duration, n int) (spans []span) {
		for range n {
			spans = append(spans, span{from, from + stop})
			from += stop + run
		}
		return spans
	}
	for name, s := range map[string]struct {
		ttl, every time.Duration
		spans      []span
	}{
		"once, over a beat and the TTL's end": {1000 * ms, 700 * ms, burst(650*ms, 900*ms, 0, 1)},
		"four times":                          {1000 * ms, 700 * ms, burst(600*ms, 900*ms, 300*ms, 4)},
		"within one sleep of the loop":        {1000 * ms, 900 * ms, burst(760*ms, 235*ms, 0, 1)},
		"while the loop sleeps, as it did before the first heartbeat": {
			270 * ms, 190 * ms, burst(2*ms, 247*ms, 0, 1)},
		"until just before the TTL's end": {1000 * ms, 900 * ms, burst(800*ms, 199*ms, 0, 1)},
		"from just before the TTL's end":  {1000 * ms, 995 * ms, burst(994*ms, 30*ms, 0, 1)},
		"shortly, beside the last moment": {1000 * ms, 985 * ms, burst(984*ms, 14*ms, 0, 1)},
		"again and again, for moments of running between": {
			1000 * ms, 700 * ms, burst(650*ms, 95*ms, 5*ms, 30)},
		"a long one, then short ones": {300 * ms, 200 * ms,
			append(burst(150*ms, 950*ms, 0, 1), burst(1105*ms, 95*ms, 5*ms, 15)...)},
		"for longer than some TTLs":     {200 * ms, 140 * ms, burst(100*ms, 950*ms, 0, 1)},
		"for longer than a second":      {200 * ms, 140 * ms, burst(100*ms, 5000*ms, 0, 1)},
		"of 12 s, for longer than that": {12_000 * ms, 8400 * ms, burst(8000*ms, 14_000*ms, 0, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startStopped(t, Options{}, s.spans...)
				defer r.shut()
				hb := newHeartbeat(0, uint64(s.ttl.Milliseconds()))
				until := s.spans[len(s.spans)-1].to + 3*s.ttl
				r.beat(t, hb, s.every, until)
				if at, off := r.offlines.of(hb.Device); off {
					t.Errorf("a device that sent in time went offline at %v", at)
				}
				last := r.now()
				time.Sleep(s.ttl + 5*ms)
				if at, off := r.offlines.of(hb.Device); !off || at < last+s.ttl {
					t.Errorf("a silent device is offline: %v, at %v", off, at)
				}
			})
		})
	}
}

// TestProcessorsAreTaken: where every wake of the loop is late, a silent device goes offline after
// as many wakes as the longest gap has milliseconds, at most; one that sends in time never does
// (I8).
func TestProcessorsAreTaken(t *testing.T) {
	const ms = time.Millisecond
	for name, s := range map[string]struct{ first, stop, run time.Duration }{
		"late by 7 ms, after a stop of 120 ms":    {120 * ms, 7 * ms, 2 * ms},
		"a fifth of a processor, in slices":       {80 * ms, 80 * ms, 20 * ms},
		"a tenth of one, after a stop of 400 ms":  {400 * ms, 45 * ms, 5 * ms},
		"late by 20 ms, for a millisecond's work": {300 * ms, 20 * ms, ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const until = 100 * time.Second
				spans := []span{{900 * ms, 900*ms + s.first}}
				for at := spans[0].to + s.run; at < until; at += s.stop + s.run {
					spans = append(spans, span{at, at + s.stop})
				}
				r := startStopped(t, Options{}, spans...)
				defer r.shut()
				silent, hb := newHeartbeat(0, 1000), newHeartbeat(1, 2000)
				silent.Seq = 1
				r.receive(t, silent, 0)
				r.beat(t, hb, 1200*ms, until/2)
				if at, off := r.offlines.of(hb.Device); off {
					t.Errorf("a device that sent in time went offline at %v", at)
				}
				wakes := time.Duration(max(s.first, s.stop).Milliseconds()) + 4
				most := spans[0].to + wakes*(s.stop+s.run+2*ms)
				if at, off := r.offlines.of(silent.Device); !off || at > most {
					t.Errorf("the silent device is offline: %v, at %v; should be by %v", off, at, most)
				}
			})
		})
	}
}

// TestPauseOfTheLoopGivesGrace: after a pause of ten seconds no device expires before it could be
// heard again (I8).
func TestPauseOfTheLoopGivesGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startStopped(t, Options{RecoveryGrace: 3 * time.Second},
			span{time.Second, 11 * time.Second})
		defer r.shut()
		hb := newHeartbeat(1, 5000)
		r.receive(t, hb, 0)
		time.Sleep(14*time.Second - 1)
		if at, off := r.offlines.of(hb.Device); off {
			t.Errorf("it went offline at %v", at)
		}
		time.Sleep(2 * time.Millisecond)
		if _, off := r.offlines.of(hb.Device); !off {
			t.Error("it does not go offline")
		}
	})
}

// TestStoppedWithinATurn of the expire loop, after it has expired one device and before it looks at
// the next.
func TestStoppedWithinATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *stopped
		stop := func(float64) { r.stops.stop(900 * time.Millisecond) }
		r = startStopped(t, Options{ObserveLateness: stop})
		defer r.shut()
		silent := newHeartbeat(1, 1000)
		r.receive(t, silent, 0)
		time.Sleep(50 * time.Millisecond)
		hb := newHeartbeat(0, 1000)
		r.beat(t, hb, 970*time.Millisecond, 5*time.Second)
		if at, off := r.offlines.of(hb.Device); off {
			t.Errorf("a device that sent in time went offline at %v", at)
		}
		if _, off := r.offlines.of(silent.Device); !off {
			t.Error("a silent one did not")
		}
	})
}

// TestSlowCommitGivesTime: a daemon that has one connection sends its next heartbeat when it has
// the answer to the last. The time for which a commit below a second made it wait is not silence
// (I8).
func TestSlowCommitGivesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startStopped(t, Options{})
		defer r.shut()
		hb := newHeartbeat(1, 1000)
		r.receive(t, hb, 0)
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		stop := make(chan struct{})
		go func() { // the commit in flight, as the loop sees it
			for {
				select {
				case <-stop:
					r.log.stalled.Store(0)
					return
				case <-time.After(time.Millisecond):
					r.log.stalled.Store(int64(time.Since(began)))
				}
			}
		}()
		time.Sleep(900 * time.Millisecond) // the TTL's end is at 1 s
		close(stop)
		time.Sleep(800 * time.Millisecond)
		if at, off := r.offlines.of(hb.Device); off {
			t.Fatalf("the device went offline at %v", at)
		}
		hb.Seq++
		r.receive(t, hb, r.now())
		time.Sleep(999 * time.Millisecond)
		if at, off := r.offlines.of(hb.Device); off {
			t.Errorf("the device went offline at %v", at)
		}
		time.Sleep(2 * time.Millisecond)
		if _, off := r.offlines.of(hb.Device); !off {
			t.Error("the silent device does not go offline")
		}
	})
}

// TestStoppedAtRandom: devices with TTLs of 0.2 to 12 s, each in time by 3 % of its TTL at least,
// and a process that is stopped at random, alone and in bursts. None goes offline while it sends;
// silent ones go offline when the process has listened for as long again as it may have been deaf,
// a second at most.
func TestStoppedAtRandom(t *testing.T) {
	rng := testseed.Rand(t)
	stopsTried, beats := 0, 0
	for range 60 {
		synctest.Test(t, func(t *testing.T) {
			s, b := stoppedAtRandom(t, rng)
			stopsTried, beats = stopsTried+s, beats+b
		})
	}
	t.Logf("%d heartbeats over %d stops", beats, stopsTried)
}

func stoppedAtRandom(t *testing.T, rng *rand.Rand) (stopped, beats int) {
	const length = 40 * time.Second
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)))
	}
	var spans []span
	for at := between(0, time.Second); at < length; {
		n, stop, run := 1, between(10*time.Millisecond, 5*time.Second), between(0, 3*time.Second)
		if rng.IntN(2) == 0 {
			stop = between(10*time.Millisecond, time.Second)
		}
		if rng.IntN(3) == 0 {
			n, run = 2+rng.IntN(20), between(time.Millisecond, 50*time.Millisecond)
		}
		for range n {
			spans = append(spans, span{at, at + stop})
			at += stop + run + 1
		}
		at += between(0, 2*time.Second)
	}
	grace := between(100*time.Millisecond, 15*time.Second)
	r := startStopped(t, Options{RecoveryGrace: grace}, slices.Clone(spans)...)
	defer r.shut()
	var devices sync.WaitGroup
	var sent [20]int
	for i := range sent {
		ttl := between(200*time.Millisecond, 12*time.Second).Truncate(time.Millisecond)
		every := time.Duration((0.2 + 0.77*rng.Float64()) * float64(ttl))
		first, until := between(0, time.Second), between(time.Second, length)
		devices.Go(func() {
			hb := newHeartbeat(0, uint64(ttl.Milliseconds()))
			time.Sleep(first)
			last := r.beat(t, hb, every, until)
			sent[i] = int(hb.Seq)
			if at, off := r.offlines.of(hb.Device); off {
				t.Errorf("ttl %v, every %v: offline at %v, though it sent in time", ttl, every, at)
			}
			due := last + ttl
			for off := false; !off && !t.Failed(); _, off = r.offlines.of(hb.Device) {
				time.Sleep(time.Second)
				if r.now() > 10*length {
					t.Errorf("ttl %v, last heard at %v: still online", ttl, last)
				}
			}
			at, off := r.offlines.of(hb.Device)
			if !off {
				return
			}
			if at < due {
				t.Errorf("ttl %v, last heard at %v: offline at %v, too early", ttl, last, at)
			}
			slack := 20 * time.Millisecond
			for _, p := range spans {
				if p.from < at && p.length() > time.Second-time.Duration(idleNanos) {
					due = max(due, p.to+min(ttl, grace)) // that of a gap of more than a second
				}
				if due < p.to && p.from < at {
					slack += time.Duration(stepNanos) + 2*time.Millisecond
				}
			}
			if r.ran(due, at) > time.Second+slack {
				t.Errorf("ttl %v, last heard at %v: offline only at %v", ttl, last, at)
			}
		})
	}
	devices.Wait()
	for _, n := range sent {
		beats += n
	}
	return len(spans), beats
}
