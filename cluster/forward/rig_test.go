package forward

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus/bustest"
	"rollcall/engine"
	"rollcall/wire"
)

// device names a device.
type device struct{ user, device uuid.UUID }

// fakeEngine is an engine that remembers what it accepted, in the order in which it did.
type fakeEngine struct {
	mu       sync.Mutex
	accepted map[device][]uint64        // guarded by mu
	next     func(hb *engine.Heartbeat) // called before each; guarded by mu
	refuse   engine.Result              // of all, unless it is Accepted. guarded by mu
	commit   chan struct{}              // nil: commits are at once; else each takes one
	failed   error                      // of Settle. guarded by mu
	kicks    int
}

func newFakeEngine() *fakeEngine { return &fakeEngine{accepted: map[device][]uint64{}} }

func (e *fakeEngine) Kick() {
	e.mu.Lock()
	e.kicks++
	e.mu.Unlock()
}

func (e *fakeEngine) seqs(d device) []uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]uint64(nil), e.accepted[d]...)
}

func (e *fakeEngine) NewResultBatch() engine.ResultBatch { return &fakeBatch{engine: e} }

type fakeBatch struct {
	engine.Batch
	engine *fakeEngine
}

func (b *fakeBatch) Apply(hbs []engine.Heartbeat, results []engine.Result) {
	e := b.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range hbs {
		hb := &hbs[i]
		if e.next != nil {
			e.next(hb)
		}
		d := device{hb.User, hb.Device}
		seqs := e.accepted[d]
		switch {
		case e.refuse.Outcome != engine.Accepted:
			results[i] = e.refuse
		case len(seqs) > 0 && hb.Seq <= seqs[len(seqs)-1]:
			results[i] = engine.Result{Outcome: engine.Stale, LastSeq: seqs[len(seqs)-1]}
		case len(seqs) == 0 && hb.Sender != nil && !hb.Sender.AdmitsNew():
			results[i] = engine.Result{Outcome: engine.Unavailable, Err: engine.ErrTooManyNew}
		default:
			e.accepted[d] = append(seqs, hb.Seq)
			results[i] = engine.Result{}
		}
	}
}

func (b *fakeBatch) Settle() error {
	if b.engine.commit != nil {
		<-b.engine.commit
	}
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	return b.engine.failed
}

func (b *fakeBatch) Release() {}

// node is a node with a Forwarder and the engines of its partitions.
type node struct {
	*Forwarder
	mu      sync.Mutex
	engines map[int]*fakeEngine // guarded by mu
}

func newNode(t testing.TB, n *bustest.Net, name string, partitions int, o Options) *node {
	x := &node{engines: map[int]*fakeEngine{}}
	x.Forwarder = New(n.Node(name), partitions, x.owned, o)
	t.Cleanup(x.Close)
	return x
}

func (n *node) owned(p int) (Engine, func(), bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.engines[p]
	return e, func() {}, e != nil
}

// own makes the node the owner of a partition with this engine; nil: it is not any more.
func (n *node) own(p int, e *fakeEngine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engines[p] = e; e == nil {
		delete(n.engines, p)
	}
}

func newHeartbeat(d device, seq uint64) *engine.Heartbeat {
	return &engine.Heartbeat{Heartbeat: wire.Heartbeat{
		User: d.user, Device: d.device, Status: engine.Online, Source: []byte("desktop"),
		SentAtMS: 1_700_000_000_000 + seq, Seq: seq, TTLMS: 12_000,
	}}
}

func newDevice() device { return device{uuid.New(), uuid.New()} }

// collected is a sink that keeps what it is told.
type collected struct {
	t    testing.TB
	mu   sync.Mutex
	told map[int]engine.Result // guarded by mu
	more chan struct{}
}

func newCollected(t testing.TB) *collected {
	return &collected{t: t, told: map[int]engine.Result{}, more: make(chan struct{}, 1<<16)}
}

func (c *collected) Told(index int, r engine.Result, beat Beat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.told[index]; twice {
		c.t.Errorf("heartbeat %d was told of twice", index)
	}
	if _, err := beatAt(beat); err != nil {
		c.t.Errorf("heartbeat %d came back with %q", index, beat)
	}
	c.told[index] = r
	c.more <- struct{}{}
}

// wait waits until n heartbeats were told of.
func (c *collected) wait(n int) map[int]engine.Result {
	c.t.Helper()
	for range n {
		select {
		case <-c.more:
		case <-time.After(30 * time.Second):
			c.t.Fatalf("%d of %d were told of", len(c.told), n)
		}
	}
	return c.told
}
