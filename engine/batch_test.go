package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/wire"
)

// sendBatch adds hbs in groups of at most group, settles and returns what came of each.
func (r *rig) sendBatch(hbs []Heartbeat, group int) []Result {
	r.t.Helper()
	b := r.NewBatch()
	defer b.Release()
	for at := 0; at < len(hbs); at += group {
		b.Add(numbered(hbs, at, min(at+group, len(hbs))))
	}
	if err := b.Settle(); err != nil {
		r.t.Fatal(err)
	}
	return outcomes(b, len(hbs))
}

// TestResultBatch tells of each heartbeat, also behind the first MaxRejections that it rejects.
func TestResultBatch(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(MaxRejections, 60_000)
	hbs := make([]Heartbeat, 2*MaxRejections)
	results := make([]Result, len(hbs))
	for i := range hbs {
		hbs[i] = *hb
		hbs[i].Seq, hbs[i].Index = uint64(len(hbs)-i), i
	}
	b := r.NewResultBatch()
	defer b.Release()
	for at := 0; at < len(hbs); at += GroupSize {
		end := min(at+GroupSize, len(hbs))
		b.Apply(hbs[at:end], results[at:end])
	}
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	for i, got := range results {
		want := Result{Outcome: Stale, LastSeq: uint64(len(hbs))}
		if i == 0 {
			want = Result{Outcome: Accepted}
		}
		if got != want {
			t.Fatalf("heartbeat %d: %+v, want %+v", i, got, want)
		}
	}
}

// numbered returns some of hbs, each with its place as its Index.
func numbered(hbs []Heartbeat, from, to int) []Heartbeat {
	for i := from; i < to; i++ {
		hbs[i].Index = i
	}
	return hbs[from:to]
}

// outcomes returns what came of n heartbeats of a settled batch, which are fewer than it remembers.
func outcomes(b Batch, n int) []Result {
	results := make([]Result, n)
	for _, r := range b.Rejections() {
		results[r.Index] = r.Result
	}
	return results
}

// TestLongBatchKicksTheLog while more of it is added, and a short one leaves that to its end.
func TestLongBatchKicksTheLog(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{})
	b := r.NewBatch()
	defer b.Release()
	group := make([]Heartbeat, GroupSize)
	for added := GroupSize; added <= 3*kickAfter; added += GroupSize {
		for i := range group {
			group[i] = *newHeartbeat(uint64(added), 60_000)
			group[i].Index = added + i
		}
		b.Add(group)
		if want := int64(added / kickAfter); log.kicks.Load() != want {
			t.Fatalf("%d kicks after %d heartbeats, want %d", log.kicks.Load(), added, want)
		}
	}
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
}

// TestBatchIsHeartbeatsOneAfterTheOther gives the same reports to one engine as heartbeats and to
// another in batches: the same answers, the same log.
func TestBatchIsHeartbeatsOneAfterTheOther(t *testing.T) {
	rng := testseed.Rand(t)
	for round := range 20 {
		o := Options{MaxDevices: 6, SeqPolicy: SeqPolicy(round % 2)}
		single, batched := startRig(t, newMemLog(), o), startRig(t, newMemLog(), o)
		users, devices := []uuid.UUID{uuid.New(), uuid.New()},
			[]uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
		hbs := make([]Heartbeat, 100)
		var want []Result
		for i := range hbs {
			hbs[i] = Heartbeat{Heartbeat: wire.Heartbeat{
				User: users[rng.IntN(2)], Device: devices[rng.IntN(4)],
				Status: Status(rng.IntN(2)), Source: []byte{'a' + byte(rng.IntN(3))},
				SentAtMS: rng.Uint64N(50), Seq: rng.Uint64N(50), TTLMS: 1000,
			}}
			one := hbs[i]
			want = append(want, single.Heartbeat(&one))
		}
		got := batched.sendBatch(hbs, 1+rng.IntN(GroupSize))
		for i := range got {
			if fmt.Sprint(got[i]) != fmt.Sprint(want[i]) {
				t.Fatalf("heartbeat %d of %d: %+v in a batch, %+v alone", i, len(hbs), got[i],
					want[i])
			}
		}
		if !slices.EqualFunc(single.log.records, batched.log.records, slices.Equal) {
			t.Fatal("the logs differ")
		}
		a, b := single.Stats(), batched.Stats()
		if a.Accepted != b.Accepted || a.Stale != b.Stale || a.Unavailable != b.Unavailable ||
			a.Devices != b.Devices || batched.log.reserved != 0 {
			t.Fatalf("%+v, %d credits out in batches; %+v alone", b, batched.log.reserved, a)
		}
	}
}

// TestBatchTellsNothingEarly: nothing of a batch may be told before what it changed, or what made
// it stale, is durable (I2).
func TestBatchTellsNothingEarly(t *testing.T) {
	for name, again := range map[string]bool{"accepted": false, "stale": true} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, newMemLog(), Options{})
			r.log.set(func() { r.log.held = true })
			hb := newHeartbeat(5, 1000)
			b := r.NewBatch()
			b.Add([]Heartbeat{*hb})
			if again {
				b = r.NewBatch()
				b.Add([]Heartbeat{*hb})
			}
			var told atomic.Bool
			done := make(chan error, 1)
			go func() {
				err := b.Settle()
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

// TestBatchStopsAtAFullLog: from the heartbeat that found no room on, none is applied, even when
// room comes back, so that the sender can repeat them in order; and no device goes offline for it
// (I8).
func TestBatchStopsAtAFullLog(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	known := newHeartbeat(1, 100)
	r.mustAccept(known)
	r.now.Add(int64(90 * time.Millisecond))
	hbs := []Heartbeat{*newHeartbeat(1, 100), *newHeartbeat(1, 100), *newHeartbeat(1, 100)}
	again := *known
	again.Seq = 2
	hbs = append(hbs, again)
	b := r.NewBatch()
	b.Add(numbered(hbs, 0, 1))
	if _, full := b.Full(); full {
		t.Error("full before the log was")
	}
	r.log.set(func() { r.log.full = true })
	b.Add(numbered(hbs, 1, 2))
	r.log.set(func() { r.log.full = false })
	b.Add(numbered(hbs, 2, len(hbs)))
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	if from, full := b.Full(); !full || from != 1 {
		t.Errorf("full from %d on: %v", from, full)
	}
	for i, res := range outcomes(b, len(hbs)) {
		if want := i > 0; (res.Outcome == Unavailable) != want || res.LogFull != want {
			t.Errorf("heartbeat %d: %+v", i, res)
		}
	}
	if n := len(r.log.records); n != 2 || r.log.reserved != 0 {
		t.Errorf("%d records, %d credits out", n, r.log.reserved)
	}
	r.advance(50 * time.Millisecond)
	r.wantStatus(known, Online)
	if res := r.sendBatch(hbs[1:], GroupSize); res[0].Outcome != Accepted ||
		res[1].Outcome != Accepted || res[2].Outcome != Accepted {
		t.Errorf("repeated: %+v", res)
	}
}

// TestBatchRemembersTheFirstRejections, and counts all.
func TestBatchRemembersTheFirstRejections(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(7, 60_000)
	r.mustAccept(hb)
	b := r.NewBatch()
	defer b.Release()
	const heartbeats = 10_000
	for i := range heartbeats {
		hb.Index = 2 * i
		b.Add([]Heartbeat{*hb})
	}
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	if c := b.Counts(); c != (Counts{Stale: heartbeats}) {
		t.Errorf("%+v", c)
	}
	rejected := b.Rejections()
	if len(rejected) != MaxRejections {
		t.Fatalf("%d of %d stale heartbeats are remembered, want %d", len(rejected), heartbeats,
			MaxRejections)
	}
	for i, r := range rejected {
		if r.Index != 2*i || r.Outcome != Stale || r.LastSeq != 7 {
			t.Errorf("rejection %d: %+v", i, r)
		}
	}
	if s := r.Stats(); s.Stale != heartbeats || s.Accepted != 1 {
		t.Errorf("%+v", s)
	}
}

// waitingLog has room for a record only when one is waited for.
type waitingLog struct {
	nullLog
	waits []string
}

func (l *waitingLog) Reserve(_ int, maxWait time.Duration) error {
	if maxWait == 0 {
		return errFull
	}
	l.waits = append(l.waits, "wait")
	return nil
}

// TestBatchSaysWhenItWaits: its owner hears of each wait for room in the log, before and after.
func TestBatchSaysWhenItWaits(t *testing.T) {
	l := &waitingLog{nullLog: nullLog{memLog: newMemLog()}}
	e, _ := newStill(t, l, Options{})
	b := e.NewBatch()
	defer b.Release()
	b.AroundWaits(func() { l.waits = append(l.waits, "before") },
		func() { l.waits = append(l.waits, "after") })
	b.Add([]Heartbeat{*newHeartbeat(1, 60_000), *newHeartbeat(2, 60_000)})
	if err := b.Settle(); err != nil || b.Counts() != (Counts{Accepted: 2}) {
		t.Fatalf("%+v, %v", b.Counts(), err)
	}
	if want := "[before wait after before wait after]"; fmt.Sprint(l.waits) != want {
		t.Errorf("%v, want %v", l.waits, want)
	}
}

// nullLog takes everything and keeps nothing.
type nullLog struct {
	*memLog
	lsn atomic.Uint64
}

func (l *nullLog) Reserve(int, time.Duration) error { return nil }
func (l *nullLog) Append([]byte, int64) uint64      { return l.lsn.Add(1) }
func (l *nullLog) Wait(uint64) error                { return nil }
func (l *nullLog) Vouch(uint64) error               { return nil }
func (l *nullLog) Commit(uint64) error              { return nil }

func TestBatchDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("with the race detector a sync.Pool loses some of what it holds")
	}
	l := &nullLog{memLog: newMemLog()}
	e, _ := newStill(t, l, Options{})
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close(); e.Close(context.Background()) })
	hbs := make([]Heartbeat, GroupSize)
	for i := range hbs {
		hbs[i] = *newHeartbeat(1, 60_000)
	}
	if n := testing.AllocsPerRun(200, func() {
		b := e.NewBatch()
		b.Add(hbs)
		b.Add(hbs[:1])
		if err := b.Settle(); err != nil {
			t.Fatal(err)
		}
		if c := b.Counts(); c.Accepted != GroupSize || c.Stale != 1 ||
			b.Rejections()[0].LastSeq != hbs[0].Seq {
			t.Fatalf("%+v, %+v", c, b.Rejections())
		}
		b.Release()
		for i := range hbs {
			hbs[i].Seq++
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d heartbeats, want none", n, GroupSize)
	}
}

// batch sends some heartbeats in one batch and notes each as an operation that lasts as long as the
// batch.
func (h *history) batch(
	e *Engine, id int, user uuid.UUID, devices []uuid.UUID, rng *rand.Rand, seq uint64,
) {
	hbs := make([]Heartbeat, 2+rng.IntN(4))
	ins := make([]opInput, len(hbs))
	for i := range hbs {
		d := rng.IntN(len(devices))
		hbs[i] = Heartbeat{Heartbeat: wire.Heartbeat{
			User: user, Device: devices[d], Source: []byte("x"),
			Status: Status(rng.IntN(2)), TTLMS: 60_000, Seq: seq + rng.Uint64N(8),
		}}
		ins[i] = opInput{device: d, kind: opHeartbeat, seq: hbs[i].Seq, status: hbs[i].Status}
	}
	call := h.now()
	var results []Result
	if rng.IntN(2) == 0 { // as an event loop
		var err error
		if results, err = inGroup(e, hbs); err != nil {
			panic(err)
		}
	} else {
		b := e.NewBatch()
		defer b.Release()
		b.Add(numbered(hbs, 0, len(hbs)))
		if err := b.Settle(); err != nil {
			panic(err)
		}
		results = outcomes(b, len(hbs))
	}
	ret := h.now()
	for i, res := range results {
		h.add(id, ins[i], call, opOutput{outcome: res.Outcome, last: res.LastSeq}, ret)
		if res.Outcome == Accepted {
			h.accepted(ins[i], call, hbs[i].TTLMS)
		}
	}
}
