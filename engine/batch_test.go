package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// sendBatch applies hbs in groups of at most group and settles.
func (r *rig) sendBatch(hbs []Heartbeat, group int) []Result {
	r.t.Helper()
	var b Batch
	results := make([]Result, len(hbs))
	for at := 0; at < len(hbs); at += group {
		end := min(at+group, len(hbs))
		r.Apply(&b, hbs[at:end], results[at:end])
	}
	if err := r.Settle(&b); err != nil {
		r.t.Fatal(err)
	}
	return results
}

// TestBatchIsHeartbeatsOneAfterTheOther gives the same reports to one engine as heartbeats and to another in batches: the same
// answers, the same log.
func TestBatchIsHeartbeatsOneAfterTheOther(t *testing.T) {
	rng := testseed.Rand(t)
	for round := range 20 {
		o := Options{MaxDevices: 6, SeqPolicy: SeqPolicy(round % 2)}
		single, batched := startRig(t, newMemLog(), o), startRig(t, newMemLog(), o)
		users, devices := []uuid.UUID{uuid.New(), uuid.New()}, []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
		hbs := make([]Heartbeat, 100)
		var want []Result
		for i := range hbs {
			hbs[i] = Heartbeat{User: users[rng.IntN(2)], Device: devices[rng.IntN(4)], Status: Status(rng.IntN(2)),
				Source: []byte{'a' + byte(rng.IntN(3))}, SentAtMS: rng.Uint64N(50), Seq: rng.Uint64N(50), TTLMS: 1000}
			one := hbs[i]
			want = append(want, single.Heartbeat(&one))
		}
		got := batched.sendBatch(hbs, 1+rng.IntN(GroupSize))
		for i := range got {
			if fmt.Sprint(got[i]) != fmt.Sprint(want[i]) {
				t.Fatalf("heartbeat %d of %d: %+v in a batch, %+v alone", i, len(hbs), got[i], want[i])
			}
		}
		if !slices.EqualFunc(single.log.records, batched.log.records, slices.Equal) {
			t.Fatal("the logs differ")
		}
		a, b := single.Stats(), batched.Stats()
		if a.Accepted != b.Accepted || a.Stale != b.Stale || a.Unavailable != b.Unavailable || a.Devices != b.Devices || batched.log.reserved != 0 {
			t.Fatalf("%+v, %d credits out in batches; %+v alone", b, batched.log.reserved, a)
		}
	}
}

// TestBatchTellsNothingEarly: nothing of a batch may be told before what it changed, or what made it stale, is durable (I2).
func TestBatchTellsNothingEarly(t *testing.T) {
	for name, again := range map[string]bool{"accepted": false, "stale": true} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, newMemLog(), Options{})
			r.log.set(func() { r.log.held = true })
			hb := newHeartbeat(5, 1000)
			var first, b Batch
			results := make([]Result, 1)
			r.Apply(&first, []Heartbeat{*hb}, results)
			if again {
				r.Apply(&b, []Heartbeat{*hb}, results)
			} else {
				b = first
			}
			var told atomic.Bool
			done := make(chan error, 1)
			go func() {
				err := r.Settle(&b)
				told.Store(true)
				done <- err
			}()
			other := newHeartbeat(1, 1000) // many turns of the scheduler
			for range 100 {
				r.Stale(other)
				time.Sleep(10 * time.Microsecond)
			}
			if told.Load() {
				t.Error("settled before the log was")
			}
			r.log.set(func() { r.log.held = false })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestBatchStopsAtAFullLog: from the heartbeat that found no room on, none is applied, even when room comes back, so that the
// sender can repeat them in order; and nobody goes offline for it (I8).
func TestBatchStopsAtAFullLog(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	known := newHeartbeat(1, 100)
	r.mustAccept(known)
	r.now.Add(int64(90 * time.Millisecond))
	hbs := []Heartbeat{*newHeartbeat(1, 100), *newHeartbeat(1, 100), *newHeartbeat(1, 100)}
	again := *known
	again.Seq = 2
	hbs = append(hbs, again)
	var b Batch
	results := make([]Result, len(hbs))
	r.Apply(&b, hbs[:1], results[:1])
	r.log.set(func() { r.log.full = true })
	r.Apply(&b, hbs[1:2], results[1:2])
	r.log.set(func() { r.log.full = false })
	r.Apply(&b, hbs[2:], results[2:])
	if err := r.Settle(&b); err != nil {
		t.Fatal(err)
	}
	for i, res := range results {
		if want := i > 0; (res.Outcome == Unavailable) != want || res.LogFull != want {
			t.Errorf("heartbeat %d: %+v", i, res)
		}
	}
	if n := len(r.log.records); n != 2 || r.log.reserved != 0 {
		t.Errorf("%d records, %d credits out", n, r.log.reserved)
	}
	r.advance(50 * time.Millisecond)
	r.wantStatus(known, Online)
	if res := r.sendBatch(hbs[1:], GroupSize); res[0].Outcome != Accepted || res[1].Outcome != Accepted || res[2].Outcome != Accepted {
		t.Errorf("repeated: %+v", res)
	}
}

// nullLog takes everything and keeps nothing.
type nullLog struct {
	*memLog
	lsn atomic.Uint64
}

func (l *nullLog) Reserve(int, time.Duration) error { return nil }
func (l *nullLog) Append([]byte) uint64             { return l.lsn.Add(1) }
func (l *nullLog) Wait(uint64) error                { return nil }

func TestBatchDoesNotAllocate(t *testing.T) {
	l := &nullLog{memLog: newMemLog()}
	e, _ := newStill(t, l, Options{})
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close(); e.Close(); e.Release() })
	hbs, results := make([]Heartbeat, GroupSize), make([]Result, GroupSize)
	for i := range hbs {
		hbs[i] = *newHeartbeat(1, 60_000)
	}
	b := new(Batch)
	if n := testing.AllocsPerRun(200, func() {
		e.Apply(b, hbs, results)
		if err := e.Settle(b); err != nil || results[GroupSize-1].Outcome != Accepted {
			t.Fatalf("%+v, %v", results, err)
		}
		for i := range hbs {
			hbs[i].Seq++
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d heartbeats, want none", n, GroupSize)
	}
}

// batch sends some heartbeats in one batch and notes each as an operation that lasts as long as the batch.
func (h *history) batch(e *Engine, id int, user uuid.UUID, devices []uuid.UUID, rng *rand.Rand, seq uint64) {
	hbs := make([]Heartbeat, 2+rng.IntN(4))
	ins := make([]opInput, len(hbs))
	for i := range hbs {
		d := rng.IntN(len(devices))
		hbs[i] = Heartbeat{User: user, Device: devices[d], Source: []byte("x"), Status: Status(rng.IntN(2)), TTLMS: 60_000, Seq: seq + rng.Uint64N(8)}
		ins[i] = opInput{device: d, kind: opHeartbeat, seq: hbs[i].Seq, status: hbs[i].Status}
	}
	results := make([]Result, len(hbs))
	call := h.now()
	var b Batch
	e.Apply(&b, hbs, results)
	if err := e.Settle(&b); err != nil {
		panic(err)
	}
	ret := h.now()
	for i, res := range results {
		h.add(id, ins[i], call, opOutput{outcome: res.Outcome, last: res.LastSeq}, ret)
		if res.Outcome == Accepted {
			h.accepted(ins[i], call, hbs[i].TTLMS)
		}
	}
}
