package jslog_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
	"rollcall/wire"
)

// The simulation: owners with real engines share a stream in memory, in virtual time. Nothing
// happens by itself: each step of a world is one choice of what comes next, a heartbeat, a read, a
// checkpoint, a claim or a resignation of one of the owners, or the fate of one call of the stream,
// whose order among all that are under way is free: it is carried out; lost; carried out and its
// answer lost; or carried out some steps later, when its caller has given it up. What is read may
// come from a copy that is behind, stop in the middle for some steps, or lose messages on its way.
// So a list of choices is a schedule, which can be repeated, and all lists of a length can be
// tried.
//
// A device is a register: what was acknowledged is seen by every later answer of any owner. The
// checker is anishathalye/porcupine (Herlihy and Wing 1990, https://doi.org/10.1145/78969.78972).

// TestTwoOwners tries random schedules of two and three owners: acknowledged heartbeats are seen by
// all later reads and refusals, of all owners, and the stream is one that the next owner can read
// (C1 to C5). ROLLCALL_SEED repeats one.
func TestTwoOwners(t *testing.T) {
	rng := testseed.Rand(t)
	var sum counts
	for range testseed.Rounds(t, "ROLLCALL_SIM_ROUNDS", 60, 600) {
		seed := rng.Uint64()
		if os.Getenv("ROLLCALL_SEED") != "" {
			fmt.Sscan(os.Getenv("ROLLCALL_SEED"), &seed)
		}
		choices := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(choices.IntN, 2+choices.IntN(2))
		w.faults, w.steps = 10, 140
		w.run(t, fmt.Sprint("seed ", seed))
		sum.add(&w.counts)
		if t.Failed() {
			return
		}
	}
	t.Logf("%+v", sum)
	if sum.Accepted == 0 || sum.Unavailable == 0 || sum.Reads == 0 || sum.Purges == 0 ||
		sum.Late == 0 || sum.Claims < 3 {
		t.Errorf("too little has happened: %+v", sum)
	}
}

// TestAllSchedules tries every schedule of a few operations of two owners, with few faults (C1 to
// C3, C5).
func TestAllSchedules(t *testing.T) {
	limit := testseed.Rounds(t, "ROLLCALL_SIM_SCHEDULES", 1000, 20_000)
	for _, c := range []struct {
		scripts [2]string // h: heartbeat, r: read, p: checkpoint, c: claim
		faults  int
	}{
		{[2]string{"hr", "ch"}, 2},
		{[2]string{"hh", "cr"}, 2},
		{[2]string{"pr", "ch"}, 1},
	} {
		t.Run(c.scripts[0]+" "+c.scripts[1], func(t *testing.T) {
			tried := 0
			for s := new(schedule); s.next() && !t.Failed(); tried++ {
				if tried == limit {
					t.Logf("stopped after %d schedules", tried)
					return
				}
				w := newWorld(s.choose, 2)
				w.faults, w.scripts = c.faults, &c.scripts
				w.run(t, fmt.Sprint("schedule ", s.choices))
			}
			t.Logf("all of %d schedules", tried)
		})
	}
}

// schedule enumerates lists of choices, as the digits of a number whose every place may have
// another base.
type schedule struct {
	choices, bases []int
	at             int
	begun          bool
}

// next goes on to the next list; false: all were tried.
func (s *schedule) next() bool {
	if s.at = 0; !s.begun {
		s.begun = true
		return true
	}
	for n := len(s.choices); n > 0; n-- {
		s.choices, s.bases = s.choices[:n], s.bases[:n]
		if s.choices[n-1]++; s.choices[n-1] < s.bases[n-1] {
			return true
		}
	}
	return false
}

func (s *schedule) choose(n int) int {
	if s.at == len(s.choices) {
		s.choices, s.bases = append(s.choices, 0), append(s.bases, n)
	}
	s.at++
	return s.choices[s.at-1]
}

// counts say what has happened.
type counts struct {
	Accepted, Stale, Unavailable, Reads, Refused, Claims, Checkpoints, Purges, Late int
}

func (c *counts) add(o *counts) {
	c.Accepted += o.Accepted
	c.Stale += o.Stale
	c.Unavailable += o.Unavailable
	c.Reads += o.Reads
	c.Refused += o.Refused
	c.Claims += o.Claims
	c.Checkpoints += o.Checkpoints
	c.Purges += o.Purges
	c.Late += o.Late
}

// world is one run.
type world struct {
	choose  func(n int) int
	steps   int        // how many choices there are at most, with no scripts
	faults  int        // how many calls may still go wrong
	scripts *[2]string // what each owner does, in order; nil: anything

	stream *jslogtest.Stream
	owners []*owner
	free   bool // calls are carried out at once

	mu      sync.Mutex
	pending []*underway              // guarded by mu
	late    []*jslogtest.Call        // guarded by mu: given up by their callers
	fates   map[*jslogtest.Call]fate // guarded by mu: of those that were carried out
	copies  []held                   // guarded by mu: what the stream was, of late
	reads   map[*jslogtest.Call]*sight
	ops     []porcupine.Operation // guarded by mu
	counts                        // guarded by mu
	log     []string              // of choices

	clock   atomic.Int64 // logical
	seq     uint64
	user    uuid.UUID
	devices [2]uuid.UUID
}

// held is what a copy of the stream holds.
type held struct {
	first    uint64
	messages [][]byte
}

// sight is how an Info or a Read is answered. The goroutine that reads uses it.
type sight struct {
	behind *held // by this copy; nil: by the one that is current
	stops  int   // after so many messages, until it is chosen again
	from   int   // from so many messages on, some are lost on their way
	lost   int   // so many
	seen   int
}

// owner is one of the processes that want the partition.
type owner struct {
	w        *world
	name     string
	state    state
	log      *jslog.Log
	engine   *engine.Engine
	running  sync.WaitGroup // operations on the engine
	checking atomic.Bool
	done     int // of its script
}

type state int

const (
	idle state = iota
	claiming
	serving
	resigning
)

// underway is a call whose fate is open.
type underway struct {
	call *jslogtest.Call
	fate chan fate
}

type fate int

const (
	carriedOut fate = iota
	lost
	answerLost
	tooLate
	oddAnswer
	behind
	stopping
	holey
)

var errLostCall = errors.New("lost")

func newWorld(choose func(n int) int, owners int) *world {
	w := &world{
		choose: choose, stream: jslogtest.New(), fates: map[*jslogtest.Call]fate{},
		reads: map[*jslogtest.Call]*sight{},
		user:  uuid.New(), devices: [2]uuid.UUID{uuid.New(), uuid.New()},
	}
	w.stream.Before, w.stream.After, w.stream.Sees = w.before, w.after, w.sees
	for _, name := range []string{"a", "b", "c"}[:owners] {
		w.owners = append(w.owners, &owner{w: w, name: name})
	}
	return w
}

// before waits for the call's fate.
func (w *world) before(ctx context.Context, c *jslogtest.Call) error {
	w.mu.Lock()
	free := w.free || w.scripts != nil && (c.Kind == jslogtest.Info || c.Kind == jslogtest.Read)
	u := &underway{c, make(chan fate, 1)}
	if !free {
		w.pending = append(w.pending, u)
	}
	w.mu.Unlock()
	if free {
		return nil
	}
	f := tooLate
	select {
	case f = <-u.fate:
	case <-ctx.Done(): // its caller gives it up
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = slices.DeleteFunc(w.pending, func(o *underway) bool { return o == u })
	switch f {
	case lost:
		return errLostCall
	case tooLate:
		w.late = append(w.late, c)
		return errLostCall
	}
	w.fates[c] = f
	return nil
}

// after gives the answer that the fate says.
func (w *world) after(
	_ context.Context, c *jslogtest.Call, seq uint64, err error,
) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.Kind == jslogtest.Purge {
		w.Purges++
	}
	w.keepLocked()
	switch w.fates[c] {
	case answerLost:
		return 0, errLostCall
	case oddAnswer:
		return seq - 1, err
	}
	return seq, err
}

// keptCopies is by how many changes of the stream a copy may be behind.
const keptCopies = 6

// keepLocked notes what the stream is now, for copies that are behind.
func (w *world) keepLocked() {
	first, messages := w.stream.Messages()
	w.copies = append(w.copies, held{first, messages})
	w.copies = w.copies[max(0, len(w.copies)-keptCopies):]
}

// see sets how an Info or a Read is to be answered.
func (w *world) see(c *jslogtest.Call, f fate) {
	s := new(sight)
	switch f {
	case behind:
		if len(w.copies) > 0 {
			s.behind = &w.copies[w.choose(len(w.copies))]
		}
	case stopping:
		s.stops = 1 + w.choose(8)
	case holey:
		s.from, s.lost = w.choose(8), 1+w.choose(4)
	}
	w.reads[c] = s
}

// sees is what an Info or a Read finds.
func (w *world) sees(c *jslogtest.Call) (first uint64, messages [][]byte) {
	w.mu.Lock()
	s := w.reads[c]
	w.mu.Unlock()
	if s == nil {
		return w.stream.Messages()
	}
	s.seen++
	if s.seen == s.stops {
		_ = w.before(context.Background(), c)
	}
	first, messages = w.stream.Messages()
	if s.behind != nil {
		first, messages = s.behind.first, s.behind.messages
	}
	for i := s.from; s.lost > 0 && i < min(s.from+s.lost, len(messages)); i++ {
		messages[i] = nil
	}
	return first, messages
}

// run takes the steps, and then lets a third owner read what is there.
func (w *world) run(t *testing.T, name string) {
	synctest.Test(t, func(t *testing.T) {
		w.free = true
		w.owners[0].claim()
		synctest.Wait()
		w.free = false
		for step := 0; w.step(step) && !t.Failed(); step++ {
			synctest.Wait()
		}
		w.settle()
		if ops := w.ops; t.Failed() || !linearizable(ops) {
			t.Errorf("%s is not linearizable:\n%s\n%s", name, strings.Join(w.log, "\n"),
				describeOps(ops))
		}
	})
}

// step makes one choice; false: there is none left.
func (w *world) step(n int) bool {
	type action struct {
		name string
		do   func()
	}
	var can []action
	for i, o := range w.owners {
		for _, c := range o.can(n, i) {
			can = append(can, action{o.name + " " + c.name, c.do})
		}
	}
	own := len(can)
	w.mu.Lock()
	slices.SortFunc(w.pending, func(x, y *underway) int {
		return cmp.Or(cmp.Compare(x.call.By, y.call.By), cmp.Compare(x.call.Kind, y.call.Kind),
			cmp.Compare(x.call.Seq, y.call.Seq))
	})
	for _, u := range w.pending {
		fates := []fate{carriedOut}
		if w.faults > 0 {
			switch u.call.Kind {
			case jslogtest.Publish, jslogtest.Purge:
				fates = []fate{carriedOut, lost, answerLost, tooLate, oddAnswer}
			case jslogtest.Info:
				fates = []fate{carriedOut, lost, behind}
			case jslogtest.Read:
				fates = []fate{carriedOut, lost, behind, stopping, holey}
			}
		}
		for _, f := range fates {
			name := fmt.Sprint(u.call.By, " ", u.call.Kind, " ", u.call.Seq, " fate ", f)
			can = append(can, action{name, func() {
				if f != carriedOut {
					w.faults--
				}
				if f >= behind && w.reads[u.call] == nil {
					w.see(u.call, f)
				}
				u.fate <- f
			}})
		}
	}
	for i, c := range w.late {
		can = append(can, action{fmt.Sprint(c.By, " ", c.Kind, " ", c.Seq, " comes late"), func() {
			w.late = slices.Delete(w.late, i, i+1)
			_, err := w.stream.Apply(c)
			if w.Late++; err == nil && c.Kind == jslogtest.Publish {
				w.log = append(w.log, "  and is taken")
			}
		}})
	}
	w.mu.Unlock()
	if w.scripts == nil {
		if n == w.steps {
			return false
		}
		if n%10 == 9 {
			rest := 20 * time.Millisecond // checkpoints rest
			if w.faults > 0 && w.choose(6) == 0 {
				w.faults--
				rest = 4 * time.Second // more than anything is waited for, as when all are paused
				w.log = append(w.log, "a pause")
			}
			time.Sleep(rest)
			synctest.Wait()
		}
		if len(can) > own && own > 0 && w.choose(3) > 0 {
			can = can[own:] // calls move on more often than others come
		}
	}
	if len(can) == 0 {
		return w.scripts == nil
	}
	chosen := can[w.choose(len(can))]
	w.log = append(w.log, chosen.name)
	chosen.do()
	return true
}

// choice is one thing that an owner can do.
type choice struct {
	name string
	do   func()
}

// can is what an owner can do next.
func (o *owner) can(step, i int) (can []choice) {
	script := ""
	if s := o.w.scripts; s != nil {
		if o.done == len(s[i]) {
			return nil
		}
		script = s[i][o.done : o.done+1]
	}
	add := func(letter, name string, do func()) {
		if script == "" || script == letter {
			can = append(can, choice{name, func() { o.done++; do() }})
		}
	}
	switch o.state {
	case idle:
		add("c", "claims", o.claim)
	case serving:
		add("h", "heartbeat", o.heartbeat)
		if script == "" {
			add("", "heartbeat", o.heartbeat)
			add("", "reads", o.read)
		}
		add("r", "reads", o.read)
		if !o.checking.Load() {
			add("p", "checkpoint", o.checkpoint)
		}
		if script == "" && (step%4 == 0 || o.log.Err() != nil) {
			add("", "resigns", o.resign)
		}
	}
	return can
}

// claim becomes the owner, or tries to.
func (o *owner) claim() {
	o.state = claiming
	go func() {
		o.state = o.tryClaim()
	}()
}

func (o *owner) tryClaim() state {
	quiet := slog.New(slog.DiscardHandler)
	log, err := jslog.Claim(context.Background(), o.w.stream.As(o.name), jslog.Options{
		Node: o.name, Secret: make([]byte, 32), Logger: quiet,
	})
	if err != nil {
		return idle
	}
	e, err := engine.New(log, engine.Options{
		Store: log.Store(), Logger: quiet, Shards: 4, Events: nowhere{},
	})
	if err != nil {
		panic(err)
	}
	if err := e.Start(); err != nil {
		if damage := new(jslog.DamageError); errors.As(err, &damage) {
			panic(fmt.Sprintf("%v\n%s", err, strings.Join(o.w.log, "\n")))
		}
		log.Close()
		e.Close(context.Background())
		return idle
	}
	o.log, o.engine = log, e
	o.w.mu.Lock()
	o.w.Claims++
	o.w.mu.Unlock()
	return serving
}

// heartbeat sends the next seq of a device, or one that it may have had.
func (o *owner) heartbeat() {
	w, e := o.w, o.engine
	w.seq++
	seq, device := w.seq, 0
	if w.scripts == nil {
		device = w.choose(len(w.devices))
		if w.choose(4) == 0 {
			seq -= min(seq-1, 3)
		}
	}
	call := w.clock.Add(1)
	o.running.Go(func() {
		r := e.Heartbeat(&engine.Heartbeat{Heartbeat: wire.Heartbeat{
			User: w.user, Device: w.devices[device], Seq: seq, SentAtMS: seq, TTLMS: 1 << 40,
			Status: engine.Online, Source: []byte("test"),
		}})
		end := w.clock.Add(1)
		w.mu.Lock()
		defer w.mu.Unlock()
		switch r.Outcome {
		case engine.Accepted:
			w.Accepted++
		case engine.Stale:
			w.Stale++
		default: // it may come to count at any time from now on
			w.Unavailable++
			end = 1 << 40
		}
		w.ops = append(w.ops, porcupine.Operation{
			Input:  beat{device: device, seq: seq},
			Output: answer{outcome: r.Outcome, seq: r.LastSeq},
			Call:   call, Return: end,
		})
	})
}

// read asks for the user's devices.
func (o *owner) read() {
	w, e := o.w, o.engine
	call := w.clock.Add(1)
	o.running.Go(func() {
		page, _, err := e.Devices(w.user, uuid.Nil, 10)
		end := w.clock.Add(1)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.Refused++
			return
		}
		w.Reads++
		w.note(page, call, end)
	})
}

// note notes an answer to a read. With mu held.
func (w *world) note(page []engine.Device, call, end int64) {
	for i, device := range w.devices {
		found := answer{}
		for _, d := range page {
			if d.Device == device {
				found.seq = d.Seq
			}
		}
		w.ops = append(w.ops, porcupine.Operation{
			Input: beat{device: i}, Output: found, Call: call, Return: end,
		})
	}
}

// checkpoint takes one, and with it purges the stream.
func (o *owner) checkpoint() {
	o.checking.Store(true)
	e := o.engine
	o.running.Go(func() {
		_, err := e.Checkpoint(nil)
		o.checking.Store(false)
		o.w.mu.Lock()
		defer o.w.mu.Unlock()
		if err == nil {
			o.w.Checkpoints++
		}
	})
}

// resign gives the partition up: the log first, so that what waits for it ends.
func (o *owner) resign() {
	o.state = resigning
	go func() {
		o.log.Close()
		o.running.Wait()
		o.engine.Close(context.Background())
		o.state = idle
	}()
}

// settle carries out all that is under way, ends both owners and reads what is there.
func (w *world) settle() {
	for range 2 {
		w.mu.Lock()
		w.free = true
		for _, u := range w.pending {
			u.fate <- carriedOut
		}
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, o := range w.owners {
			if o.state == serving {
				o.resign()
			}
		}
		synctest.Wait()
	}
	for _, c := range w.late {
		_, _ = w.stream.Apply(c)
	}
	last := &owner{w: w, name: "last"}
	if last.state = last.tryClaim(); last.state != serving {
		panic("the last owner cannot claim")
	}
	call := w.clock.Add(1)
	page, _, err := last.engine.Devices(w.user, uuid.Nil, 10)
	if err != nil {
		panic(err)
	}
	w.note(page, call, w.clock.Add(1))
	last.resign()
	synctest.Wait()
}

// beat is an operation on a device: a heartbeat, or a read with seq 0.
type beat struct {
	device int
	seq    uint64
}

// answer is its outcome: what a refusal or a read says is the seq; 0: unknown.
type answer struct {
	outcome engine.Outcome
	seq     uint64
}

// registers is a device as a sequential machine: its last seq. A heartbeat of which it is not known
// whether it counts has all the time there is to take effect, and so may do it when nothing looks.
var registers = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		var parts [2][]porcupine.Operation
		for _, op := range ops {
			d := op.Input.(beat).device
			parts[d] = append(parts[d], op)
		}
		return parts[:]
	},
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		held, b, a := state.(uint64), in.(beat), out.(answer)
		switch {
		case b.seq == 0:
			return a.seq == held, held
		case a.outcome == engine.Accepted:
			return b.seq > held, b.seq
		case a.outcome == engine.Stale:
			return b.seq <= held && a.seq == held, held
		}
		return true, max(held, b.seq)
	},
}

func linearizable(ops []porcupine.Operation) bool {
	return porcupine.CheckOperations(registers, ops)
}

func describeOps(ops []porcupine.Operation) (text string) {
	slices.SortFunc(ops, func(x, y porcupine.Operation) int { return cmp.Compare(x.Call, y.Call) })
	for _, op := range ops {
		text += fmt.Sprintf("%d to %d: %+v: %+v\n", op.Call, op.Return, op.Input, op.Output)
	}
	return text
}

// nowhere takes the events of engines without streams.
type nowhere struct{}

func (nowhere) Publish(broadcast.Source, uuid.UUID, uint64, []byte) {}
func (nowhere) Flush(broadcast.Source, uint64, int64)               {}
func (nowhere) Lose(broadcast.Source)                               {}
func (nowhere) Tick(int64)                                          {}
