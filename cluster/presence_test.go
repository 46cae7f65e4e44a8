package cluster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/cluster/bus/bustest"
	"rollcall/cluster/forward"
	"rollcall/cluster/partition"
	"rollcall/engine"
	"rollcall/internal/testseed"
	"rollcall/wal"
	"rollcall/wire"
)

// shared is the partitions of a test's nodes, with an engine for each.
type shared struct {
	t       testing.TB
	engines []*engine.Engine

	mu     sync.RWMutex
	owners []string // guarded by mu
}

// view is the partitions as one node sees them.
type view struct {
	*shared
	self string
}

func newShared(t testing.TB, count int, o engine.Options) *shared {
	s := &shared{t: t, owners: make([]string, count)}
	for range count {
		s.engines = append(s.engines, newEngine(t, o))
	}
	return s
}

// newEngine starts an engine on a log in memory.
func newEngine(t testing.TB, o engine.Options) *engine.Engine {
	log, err := wal.Open("wal", wal.Options{FS: vfs.NewMem(),
		SegmentBytes: 4 << 20, BufferBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	o.Shards, o.Logger = 4, slog.New(slog.DiscardHandler)
	e, err := engine.New(log, o)
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(e.Recover(), e.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(e.Close(context.Background()), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (s *shared) Of(user uuid.UUID) int { return partition.Of(user, len(s.engines)) }

func (s *shared) Owner(p int) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.owners[p]
}

// move makes a node the owner of a partition; "": none is.
func (s *shared) move(p int, to string) {
	s.mu.Lock()
	s.owners[p] = to
	s.mu.Unlock()
}

func (v view) Mine(p int) (*engine.Engine, func(), bool) {
	v.mu.RLock()
	if v.owners[p] != v.self {
		v.mu.RUnlock()
		return nil, nil, false
	}
	return v.engines[p], v.mu.RUnlock, true
}

// noEdge holds nothing.
type noEdge struct{ *engine.Follower }

func (noEdge) Fresh(uuid.UUID) bool { return false }

// three makes three nodes that share partitions.
func three(t testing.TB, s *shared) (nodes []*presence, net *bustest.Net) {
	return threeWith(t, s, forward.Options{Timeout: time.Minute})
}

func threeWith(t testing.TB, s *shared, o forward.Options) (nodes []*presence, net *bustest.Net) {
	net = bustest.New()
	names := []string{"a", "b", "c"}
	for i, name := range names {
		f, err := engine.NewFollower(engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := newPresence(net.Node(name), len(s.engines), view{s, name}, noEdge{f},
			engine.NewClock(), o)
		t.Cleanup(n.close)
		nodes = append(nodes, n)
		for p := i; p < len(s.engines); p += len(names) {
			s.move(p, name)
		}
	}
	return nodes, net
}

func newHeartbeat(user, device uuid.UUID, seq uint64) engine.Heartbeat {
	return engine.Heartbeat{Heartbeat: wire.Heartbeat{
		User: user, Device: device, Status: engine.Online, Source: []byte("desktop"),
		SentAtMS: 1_700_000_000_000, Seq: seq, TTLMS: 60_000,
	}}
}

// add adds heartbeats to a batch in groups, each under its place.
func add(b engine.Batch, hbs []engine.Heartbeat) {
	for i := range hbs {
		hbs[i].Index = i
	}
	for at := 0; at < len(hbs); at += engine.GroupSize {
		b.Add(hbs[at:min(at+engine.GroupSize, len(hbs))])
	}
}

// TestBatchIsOneEngines: batches over three nodes say what those of one engine say.
func TestBatchIsOneEngines(t *testing.T) {
	rng := testseed.Rand(t)
	s := newShared(t, 7, engine.Options{MaxDevicesPerUser: 4})
	nodes, _ := three(t, s)
	single := newEngine(t, engine.Options{MaxDevicesPerUser: 4})
	users, devices := make([]uuid.UUID, 40), make([]uuid.UUID, 6)
	for _, ids := range [][]uuid.UUID{users, devices} {
		for i := range ids {
			ids[i] = uuid.New()
		}
	}
	for range 30 {
		hbs := make([]engine.Heartbeat, rng.IntN(2000))
		for i := range hbs {
			hbs[i] = newHeartbeat(users[rng.IntN(len(users))], devices[rng.IntN(len(devices))],
				rng.Uint64N(50_000))
		}
		want, got := single.NewBatch(), nodes[rng.IntN(len(nodes))].NewBatch()
		for _, b := range []engine.Batch{want, got} {
			add(b, hbs)
			if err := b.Settle(); err != nil {
				t.Fatal(err)
			}
		}
		if w, g := want.Counts(), got.Counts(); w.Accepted != g.Accepted || w.Stale != g.Stale ||
			w.Unavailable != g.Unavailable || !errors.Is(g.Err, w.Err) {
			t.Fatalf("%+v, not %+v", g, w)
		}
		if len(want.Rejections()) != len(got.Rejections()) {
			t.Fatalf("%d rejections, not %d", len(got.Rejections()), len(want.Rejections()))
		}
		for i, w := range want.Rejections() {
			g := got.Rejections()[i]
			if g.Index != w.Index || g.Outcome != w.Outcome || g.LastSeq != w.LastSeq ||
				!errors.Is(g.Err, w.Err) {
				t.Fatalf("rejection %d: %+v, not %+v", i, g, w)
			}
		}
		if at, full := got.Full(); full {
			t.Fatalf("full from %d on", at)
		}
		want.Release()
		got.Release()
	}
}

// TestUnavailableLines: a partition without an owner refuses its own heartbeats and no others, and
// the first of them is named in the end.
func TestUnavailableLines(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, net := three(t, s)
	s.move(1, "")  // none
	s.move(2, "z") // out of reach
	net.Drop(func(_, to string, _ bus.Subject, _ []byte) bool {
		if to == "z" {
			go nodes[0].down("z")
		}
		return false
	})
	hbs := make([]engine.Heartbeat, 600)
	first, bad := -1, 0
	for i := range hbs {
		hbs[i] = newHeartbeat(uuid.New(), uuid.New(), 1)
		if p := s.Of(hbs[i].User); p == 1 || p == 2 {
			if bad++; first < 0 {
				first = i
			}
		}
	}
	b := nodes[0].NewBatch()
	defer b.Release()
	add(b, hbs)
	if _, full := b.Full(); full {
		t.Error("full before it is settled")
	}
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	at, full := b.Full()
	counts := b.Counts()
	if counts.Accepted != len(hbs)-bad || counts.Unavailable != bad || at != first || !full ||
		!errors.Is(counts.Err, engine.ErrNotMine) {
		t.Errorf("%+v, from %d on (%v), not %d of %d from %d on", counts, at, full, bad, len(hbs), first)
	}
}

// TestBatchWaitsForAHungNodeOnce: where it has waited for room in vain it does not wait again,
// since its heartbeats for other nodes wait behind that.
func TestBatchWaitsForAHungNodeOnce(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, net := threeWith(t, s, forward.Options{
		Timeout: time.Minute, MaxWait: time.Millisecond, MaxWaiting: forward.MaxBeats,
	})
	var hbs []engine.Heartbeat // for one node
	for len(hbs) < 8*forward.MaxBeats {
		if hb := newHeartbeat(uuid.New(), uuid.New(), 1); s.Owner(s.Of(hb.User)) == "b" {
			hbs = append(hbs, hb)
		}
	}
	net.Hold("a", "b")
	b := nodes[0].NewBatch()
	defer b.Release()
	waits := 0
	b.AroundWaits(func() { waits++ }, func() {})
	add(b, hbs)
	net.Heal("a", "b")
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	at, full := b.Full()
	if c := b.Counts(); waits != 1 || c.Accepted != forward.MaxBeats || !full || at != c.Accepted {
		t.Errorf("it waited %d times; %+v, full from %d on (%v)", waits, c, at, full)
	}
}

// gate admits so many new devices.
type gate struct{ left, asked int }

func (g *gate) AdmitsNew() bool {
	g.asked++
	g.left--
	return g.left >= 0
}

// TestBatchAsksForNewDevices: its sender is asked once for each device that is not known, and what
// it does not admit is refused.
func TestBatchAsksForNewDevices(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, _ := three(t, s)
	g := &gate{left: 100}
	var hbs []engine.Heartbeat
	for range 150 {
		user, device := uuid.New(), uuid.New()
		for seq := range uint64(3) {
			hb := newHeartbeat(user, device, seq+1)
			hb.Sender = g
			hbs = append(hbs, hb)
		}
	}
	for round, want := range []engine.Counts{
		{Accepted: 300, Unavailable: 150}, {Stale: 300, Unavailable: 150},
	} {
		b := nodes[1].NewBatch()
		add(b, hbs)
		if err := b.Settle(); err != nil {
			t.Fatal(err)
		}
		got := b.Counts()
		if !errors.Is(got.Err, engine.ErrTooManyNew) {
			t.Errorf("round %d: %v", round, got.Err)
		}
		if got.Err = nil; got != want {
			t.Errorf("round %d: %+v, not %+v", round, got, want)
		}
		if _, full := b.Full(); full {
			t.Errorf("round %d: these need not come again", round)
		}
		b.Release()
	}
	if g.asked != 150+50 {
		t.Errorf("asked %d times", g.asked)
	}
}

// TestHeartbeatsAnywhere: each node takes every user's heartbeats, and refuses only while no node
// has the user's partition.
func TestHeartbeatsAnywhere(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, _ := three(t, s)
	for seq := range uint64(100) {
		hb := newHeartbeat(uuid.UUID{7}, uuid.UUID{1}, seq+1)
		p := s.Of(hb.User)
		s.move(p, []string{"a", "b", "c"}[rand.IntN(3)])
		if r := nodes[rand.IntN(3)].Heartbeat(&hb); r != (engine.Result{}) {
			t.Fatalf("%+v", r)
		}
		s.move(p, "")
		if r := nodes[rand.IntN(3)].Heartbeat(&hb); !errors.Is(r.Err, engine.ErrNotMine) {
			t.Fatalf("without an owner: %+v", r)
		}
	}
	s.move(s.Of(uuid.UUID{7}), "b")
	err := nodes[0].Users([]uuid.UUID{{7}}, 10, func(u *engine.User) {
		if u.Online != 1 || u.Devices[0].Seq != 100 {
			t.Errorf("%+v", u)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLater: heartbeats of event loops on three nodes are answered under their tokens, each as a
// heartbeat alone would be.
func TestLater(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, _ := three(t, s)
	s.move(5, "")
	loop := nodes[0].NewLater()
	sent := map[uint64]engine.Heartbeat{}
	var hbs []engine.Heartbeat
	var tokens []uint64
	told := 0
	var spare []engine.LaterResult
	for n := range 100 {
		hbs, tokens = hbs[:0], tokens[:0]
		for i := range engine.GroupSize {
			token := uint64(n)<<32 | uint64(i)
			hb := newHeartbeat(uuid.New(), uuid.New(), 7)
			if i%4 == 0 && n > 0 { // one of those that were answered
				hb = sent[uint64(n-1)<<32|uint64(i+1)]
				hb.Seq = 3
			}
			sent[token] = hb
			hbs, tokens = append(hbs, hb), append(tokens, token)
		}
		loop.Submit(hbs, tokens)
		for told < (n+1)*engine.GroupSize {
			spare = loop.Collect(spare[:0])
			for _, r := range spare {
				told++
				hb := sent[r.Token]
				var want engine.Result
				switch {
				case s.Of(hb.User) == 5:
					want = notOwned
				case hb.Seq == 3:
					want = engine.Result{Outcome: engine.Stale, LastSeq: 7}
				}
				if r.Result != want {
					t.Fatalf("%+v, not %+v", r.Result, want)
				}
			}
		}
	}
	loop.Close()
	if got := loop.Collect(nil); got != nil {
		t.Errorf("%v after Close", got)
	}
}

// TestLaterAsksForNewDevices: the sender of a heartbeat of an event loop is asked when the owner
// does not know the device, and not asked again when it does. What is not admitted is refused.
func TestLaterAsksForNewDevices(t *testing.T) {
	s := newShared(t, 6, engine.Options{})
	nodes, _ := three(t, s)
	g := &gate{left: 100}
	loop := nodes[0].NewLater()
	defer loop.Close()
	var hbs []engine.Heartbeat
	for range 150 {
		hb := newHeartbeat(uuid.New(), uuid.New(), 0)
		hb.Sender = g
		hbs = append(hbs, hb)
	}
	for round, asked := range []int{150, 200} {
		tokens := make([]uint64, len(hbs))
		for i := range hbs {
			hbs[i].Seq++
			tokens[i] = uint64(i)
		}
		for at := 0; at < len(hbs); at += engine.GroupSize {
			end := min(at+engine.GroupSize, len(hbs))
			loop.Submit(hbs[at:end], tokens[at:end])
		}
		results := map[engine.Result]int{}
		for told := 0; told < len(hbs); {
			for _, r := range loop.Collect(nil) {
				results[r.Result]++
				told++
			}
		}
		if results[engine.Result{}] != 100 || results[tooManyNew] != 50 || g.asked != asked {
			t.Errorf("round %d: %v, and the sender was asked %d times", round, results, g.asked)
		}
	}
}

// TestOwnersMoveUnderLoad: senders whose heartbeats go up, each through any node, in batches and by
// event loops, while partitions move and messages are lost. Nothing accepted is lost, nothing is
// stale, since nothing was sent twice, and every heartbeat has one answer.
func TestOwnersMoveUnderLoad(t *testing.T) {
	rng := testseed.Rand(t)
	s := newShared(t, 5, engine.Options{})
	nodes, net := three(t, s)
	names := []string{"a", "b", "c", ""}
	var lost sync.Mutex
	loss := rand.New(rand.NewPCG(rng.Uint64(), 1))
	net.Drop(func(_, _ string, _ bus.Subject, _ []byte) bool {
		lost.Lock()
		defer lost.Unlock()
		return loss.IntN(40) == 0
	})
	stop := make(chan struct{})
	var moves, senders sync.WaitGroup
	moves.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				s.move(n%len(s.engines), names[n*7%len(names)])
				nodes[n%3].down(names[n/3%3]) // what was lost need not be waited for
			}
		}
	})
	for range 6 {
		seed := rng.Uint64()
		senders.Go(func() { sendUpwards(t, rand.New(rand.NewPCG(seed, 2)), s, nodes) })
	}
	senders.Wait()
	close(stop)
	moves.Wait()
}

// sendUpwards sends the heartbeats of some devices, and checks what comes of them.
func sendUpwards(t *testing.T, rng *rand.Rand, s *shared, nodes []*presence) {
	devices := make([][2]uuid.UUID, 30)
	accepted := make([]uint64, len(devices))
	for i := range devices {
		devices[i] = [2]uuid.UUID{uuid.New(), uuid.New()}
	}
	seq := uint64(0)
	for range 40 {
		hbs := make([]engine.Heartbeat, 1+rng.IntN(engine.GroupSize))
		of := make([]int, len(hbs))
		for i := range hbs {
			seq++
			of[i] = rng.IntN(len(devices))
			hbs[i] = newHeartbeat(devices[of[i]][0], devices[of[i]][1], seq)
		}
		node := nodes[rng.IntN(len(nodes))]
		results := make([]engine.Result, len(hbs))
		if rng.IntN(2) == 0 {
			b := node.NewBatch()
			add(b, hbs)
			_ = b.Settle()
			for _, r := range b.Rejections() {
				results[r.Index] = r.Result
			}
			b.Release()
		} else {
			submit(node, hbs, results)
		}
		for i, r := range results {
			switch {
			case r.Outcome == engine.Stale:
				t.Errorf("seq %d is stale for %d, and was never sent before", hbs[i].Seq, r.LastSeq)
			case r.Outcome == engine.Accepted:
				accepted[of[i]] = max(accepted[of[i]], hbs[i].Seq)
			}
		}
	}
	for i, d := range devices {
		page, _, err := s.engines[s.Of(d[0])].Devices(d[0], uuid.Nil, 1)
		if err != nil || accepted[i] > 0 && (len(page) == 0 || page[0].Seq < accepted[i]) {
			t.Errorf("seq %d was accepted, and there is %+v: %v", accepted[i], page, err)
		}
	}
}

// submit sends heartbeats as an event loop does.
func submit(node *presence, hbs []engine.Heartbeat, results []engine.Result) {
	loop := node.NewLater()
	defer loop.Close()
	tokens := make([]uint64, len(hbs))
	for i := range tokens {
		tokens[i] = uint64(i)
	}
	loop.Submit(hbs, tokens)
	for told := 0; told < len(hbs); {
		for _, r := range loop.Collect(nil) {
			results[r.Token] = r.Result
			told++
		}
	}
}
