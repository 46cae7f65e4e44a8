package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/cluster/bus/bustest"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/record"
	"rollcall/wire"
)

var errFenced = errors.New("another one has claimed the log")

// sharedLog is a replicated log: the newest claim alone can append.
type sharedLog struct {
	mu      sync.Mutex
	cond    sync.Cond
	records [][]byte    // guarded by mu
	claim   *claimedLog // guarded by mu
}

// claimedLog is a claim of a sharedLog, for an engine.
type claimedLog struct {
	engine.Log // what an engine without a store does not ask for
	shared     *sharedLog
	first      uint64   // of pending
	pending    [][]byte // guarded by shared.mu
	stamp      int64    // guarded by shared.mu
	committed  uint64   // guarded by shared.mu
	ended      bool     // guarded by shared.mu
	done       chan struct{}
}

// take makes the newest claim. What the one before had pending is lost.
func (s *sharedLog) take() *claimedLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(len(s.records))
	l := &claimedLog{shared: s, first: n + 1, committed: n, done: make(chan struct{})}
	s.claim = l
	s.cond.Broadcast()
	return l
}

func (l *claimedLog) Replay(after uint64, apply func(uint64, []byte) error) error {
	for i, rec := range l.shared.records[:l.committed] {
		if lsn := uint64(i + 1); lsn > after {
			if err := apply(lsn, rec); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *claimedLog) Replayed() (uint64, int64, int64) { return l.committed + 1, 0, 0 }

func (l *claimedLog) Start(committed func(
	first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration,
)) error {
	go func() {
		defer close(l.done)
		for {
			first, batch, stamp := l.commit()
			if batch == nil {
				return
			}
			committed(first, first+uint64(len(batch))-1, slices.Values(batch), stamp, 0)
		}
	}()
	return nil
}

// commit appends what is pending; nil: it may not any more.
func (l *claimedLog) commit() (first uint64, batch [][]byte, stamp int64) {
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(l.pending) == 0 && !l.overLocked() {
		s.cond.Wait()
	}
	if l.overLocked() {
		return 0, nil, 0
	}
	first, batch, stamp = l.first, l.pending, l.stamp
	s.records = append(s.records, batch...)
	l.first += uint64(len(batch))
	l.pending, l.stamp, l.committed = nil, 0, l.first-1
	s.cond.Broadcast()
	return first, batch, stamp
}

func (l *claimedLog) overLocked() bool { return l.ended || l.shared.claim != l }

func (l *claimedLog) close() {
	l.shared.mu.Lock()
	l.ended = true
	l.shared.cond.Broadcast()
	l.shared.mu.Unlock()
	<-l.done
}

func (l *claimedLog) Reserve(int, time.Duration) error { return l.Err() }
func (l *claimedLog) Release(int)                      {}

func (l *claimedLog) Append(rec []byte, stamp int64) uint64 {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	l.pending = append(l.pending, bytes.Clone(rec))
	l.stamp = stamp
	l.shared.cond.Broadcast()
	return l.first + uint64(len(l.pending)) - 1
}

func (l *claimedLog) Wait(lsn uint64) error {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	for l.committed < lsn && !l.overLocked() {
		l.shared.cond.Wait()
	}
	if l.committed < lsn {
		return errFenced
	}
	return nil
}

func (l *claimedLog) Vouch(lsn uint64) error {
	if err := l.Wait(lsn); err != nil {
		return err
	}
	return l.Err()
}

func (l *claimedLog) Commit(lsn uint64) error   { return l.Wait(lsn) }
func (l *claimedLog) Kick()                     {}
func (l *claimedLog) Committing() time.Duration { return 0 }
func (l *claimedLog) Stalled() bool             { return false }
func (l *claimedLog) Size() (int, int64)        { return 1, 0 }
func (l *claimedLog) NoSpace() bool             { return false }
func (l *claimedLog) Failed() <-chan struct{}   { return nil }

func (l *claimedLog) Committed() uint64 {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	return l.committed
}

func (l *claimedLog) Appended() uint64 {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	return l.first + uint64(len(l.pending)) - 1
}

func (l *claimedLog) Err() error {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	if l.overLocked() {
		return errFenced
	}
	return nil
}

// ownedPartition is an engine of one claim, with its hub.
type ownedPartition struct {
	engine *engine.Engine
	log    *claimedLog
	hub    *Hub
}

func (o *ownedPartition) close() {
	o.log.close()
	o.hub.Close()
	o.engine.Close(context.Background())
}

// cluster is hubs and edges with real engines, followers and goroutines.
type cluster struct {
	*testing.T
	clock  engine.Clock
	net    *bustest.Net
	logs   []*sharedLog
	nodes  []*clusterNode
	mu     sync.RWMutex      // held by a heartbeat
	owners []*ownedPartition // guarded by mu
	at     []int             // the owners' nodes. guarded by mu
	epochs uint64            // guarded by mu
}

type clusterNode struct {
	c        *cluster
	name     string
	bus      *bustest.Bus
	edge     *Edge
	follower *engine.Follower
}

func (c *cluster) of(user uuid.UUID) int { return int(user[0]) }

func newCluster(t *testing.T, nodes, partitions int) *cluster {
	c := &cluster{T: t, clock: engine.NewClock(), net: bustest.New(),
		owners: make([]*ownedPartition, partitions), at: make([]int, partitions)}
	for range partitions {
		l := new(sharedLog)
		l.cond.L = &l.mu
		c.logs = append(c.logs, l)
	}
	for i := range nodes {
		n := &clusterNode{c: c, name: fmt.Sprintf("n%d", i)}
		n.bus = c.net.Node(n.name)
		var err error
		n.follower, err = engine.NewFollower(engine.Options{Clock: c.clock, Shards: 16,
			Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n.edge, err = NewEdge(EdgeOptions{Bus: n.bus, Follower: Of(n.follower), Clock: c.clock,
			Partitions: partitions, Of: c.of, Hold: time.Minute,
			Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n.bus.Handle(EdgeSubject, n.fromOwner)
		n.bus.Handle(HubSubject, func(m bus.Message) {
			c.mu.RLock()
			defer c.mu.RUnlock()
			if p, ok := Ours(m.Data); ok && c.at[p] == i {
				_ = c.owners[p].hub.Receive(m.From, m.Data)
			}
		})
		n.follower.Start()
		n.edge.Start()
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *cluster) close() {
	for _, o := range c.owners {
		o.close()
	}
	c.net.Settle()
	for _, n := range c.nodes {
		n.edge.Close()
		n.follower.Close(context.Background())
	}
}

func (n *clusterNode) fromOwner(m bus.Message) {
	if _, ok := Ours(m.Data); ok {
		n.edge.Receive(m)
		return
	}
	var pulse []wirePulse
	if err := json.Unmarshal(m.Data, &pulse); err != nil {
		n.c.Error(err)
	}
	for _, p := range pulse {
		n.edge.Pulsed(m.From, p.Partition, p.Epoch, p.Number, p.Nanos)
	}
}

type wirePulse struct {
	Partition     int
	Epoch, Number uint64
	Nanos         int64
}

// pulse has every node tell every node what it owns.
func (c *cluster) pulse() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i, n := range c.nodes {
		for _, to := range c.nodes {
			pulse := []wirePulse{}
			for p, o := range c.owners {
				if c.at[p] == i {
					pulse = append(pulse, wirePulse{p, o.hub.o.Epoch, o.hub.Sent(to.name),
						c.clock.Nanos()})
				}
			}
			data, _ := json.Marshal(pulse)
			n.bus.Send(to.name, EdgeSubject, data)
		}
	}
}

// claim gives a partition to a node. The engine before it ends when the new one has begun.
func (c *cluster) claim(p, node int) {
	log := c.logs[p].take()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs++
	hub, err := NewHub(HubOptions{Partition: p, Epoch: c.epochs, Bus: c.nodes[node].bus,
		Vouch: log.Vouch, Clock: c.clock})
	if err != nil {
		c.Fatal(err)
	}
	if c.epochs%2 == 0 {
		hub.many, hub.few = 0, 0
	}
	e, err := engine.New(log, engine.Options{Events: hub, Clock: c.clock, Shards: 16,
		Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		hub.Open(e)
		err = e.Start()
	}
	if err != nil {
		c.Fatal(err)
	}
	if old := c.owners[p]; old != nil {
		old.close()
	}
	c.owners[p], c.at[p] = &ownedPartition{e, log, hub}, node
}

// clusterConn is the connection of a stream. It checks that a device goes forward.
type clusterConn struct {
	t     *testing.T
	mu    sync.Mutex
	buf   []byte
	told  map[deviceKey]uint64
	users map[uuid.UUID]toldUser // of a view of users
}

// toldUser is what a stream says of a user.
type toldUser struct {
	Online *int `json:"devices_online"`
}

func (c *clusterConn) online(user uuid.UUID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, told := c.users[user]; told {
		return *u.Online
	}
	return -1
}

func (c *clusterConn) Attach(broadcast.Notifier, broadcast.StreamID) error { return nil }
func (c *clusterConn) Discard([]byte) (int, bool)                          { return 0, false }
func (c *clusterConn) Held() int                                           { return 0 }
func (c *clusterConn) CloseWrite() error                                   { return nil }
func (c *clusterConn) Close() error                                        { return nil }

func (c *clusterConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, b...)
	for {
		line, rest, ok := bytes.Cut(c.buf, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			var f struct {
				User   uuid.UUID `json:"user_id"`
				Device uuid.UUID `json:"device_id"`
				Seq    uint64    `json:"seq"`
				toldUser
			}
			if err := json.Unmarshal(data, &f); err != nil {
				c.t.Errorf("%q: %v", data, err)
			}
			if f.Online != nil {
				c.users[f.User] = f.toldUser
			}
			key := deviceKey{f.User, f.Device}
			if was := c.told[key]; f.Device != uuid.Nil && f.Seq <= was {
				c.t.Errorf("device %v is told seq %d after %d", key, f.Seq, was)
			}
			c.told[key] = f.Seq
		}
		c.buf = rest
	}
}

func (c *clusterConn) last(key deviceKey) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told[key]
}

func newClusterConn(t *testing.T) *clusterConn {
	return &clusterConn{t: t, told: make(map[deviceKey]uint64),
		users: make(map[uuid.UUID]toldUser)}
}

// openUsers opens a stream that shows users.
func (n *clusterNode) openUsers(users []uuid.UUID) *clusterConn {
	conn := newClusterConn(n.c.T)
	err := n.edge.Subscribe(broadcast.Subscription{Conn: conn, List: &broadcast.List{
		Users: users, View: broadcast.ViewUsers, IDs: noIDs{},
	}})
	if err != nil {
		n.c.Error(err)
	}
	return conn
}

// open opens a stream of one user, or of many.
func (n *clusterNode) open(users ...uuid.UUID) *clusterConn {
	conn := newClusterConn(n.c.T)
	s := broadcast.Subscription{User: users[0], Conn: conn}
	if len(users) > 1 {
		s.List = &broadcast.List{Users: users, IDs: noIDs{}}
	}
	if err := n.edge.Subscribe(s); err != nil {
		n.c.Error(err)
	}
	return conn
}

type noIDs struct{}

func (noIDs) AppendID(dst []byte, _ broadcast.Position) []byte { return append(dst, '1') }

// TestEnginesAndFollowers runs engines, followers and broadcasters on goroutines of their own while
// partitions are claimed and messages lost: no stream is told a step back, and all end up with what
// was acknowledged (E2, E5).
func TestEnginesAndFollowers(t *testing.T) {
	seed := testseed.Of(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	c := newCluster(t, 3, 3)
	for p := range c.logs {
		c.claim(p, rng.IntN(3))
	}
	stop := make(chan struct{})
	var lossy atomic.Bool
	var drops atomic.Uint64
	c.net.Drop(func(from, to string, _ bus.Subject, _ []byte) bool {
		return lossy.Load() && from != to && drops.Add(1)%31 == 0
	})
	var pulses, beats sync.WaitGroup
	pulses.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				c.pulse()
			}
		}
	})

	users := make([]uuid.UUID, 12)
	for i := range users {
		users[i] = userOf(i%len(c.logs), i)
	}
	acked := make([]map[deviceKey]uint64, 2) // by goroutine
	lossy.Store(true)
	for g := range acked {
		acked[g] = map[deviceKey]uint64{}
		rng := rand.New(rand.NewPCG(seed, uint64(g)))
		beats.Go(func() {
			for seq := range uint64(testseed.Rounds(t, "ROLLCALL_EDGE_BEATS", 300, 2000)) {
				c.beat(rng, users[rng.IntN(len(users))], byte(g+1), seq+1, acked[g])
			}
		})
	}
	type opened struct {
		conn  *clusterConn
		users []uuid.UUID
	}
	var streams, ofUsers []opened
	open := func(n *clusterNode) {
		users := []uuid.UUID{users[rng.IntN(len(users))]}
		if rng.IntN(2) == 0 {
			users = slices.Clone(c.someUsers(rng))
		}
		streams = append(streams, opened{n.open(users...), users})
	}
	for range testseed.Rounds(t, "ROLLCALL_EDGE_CLAIMS", 5, 20) {
		for range 4 {
			open(c.nodes[rng.IntN(3)])
		}
		watched := c.someUsers(rng)
		ofUsers = append(ofUsers, opened{c.nodes[rng.IntN(3)].openUsers(watched), watched})
		c.claim(rng.IntN(3), rng.IntN(3))
		c.pulse()
	}
	beats.Wait()
	lossy.Store(false)
	for _, s := range streams {
		for _, told := range acked {
			for key, seq := range told {
				if slices.Contains(s.users, key.user) {
					testwait.Until(t, "the stream has what was acknowledged",
						func() bool { return s.conn.last(key) >= seq })
				}
			}
		}
	}
	for _, s := range ofUsers {
		for _, user := range s.users {
			var is int
			err := c.owners[c.of(user)].engine.Users([]uuid.UUID{user}, 100,
				func(u *engine.User) { is = u.Online })
			if err != nil {
				t.Fatal(err)
			}
			testwait.Until(t, "the stream of users has the last of each",
				func() bool { return s.conn.online(user) == is })
		}
	}
	close(stop)
	pulses.Wait()
	c.close()
}

// someUsers are users of all partitions.
func (c *cluster) someUsers(rng *rand.Rand) (users []uuid.UUID) {
	for i := range 12 {
		if rng.IntN(2) == 0 || len(users) == 0 {
			users = append(users, userOf(i%len(c.logs), i))
		}
	}
	return users
}

// beat sends one heartbeat to the owner, until it is acknowledged.
func (c *cluster) beat(rng *rand.Rand, user uuid.UUID, device byte, seq uint64,
	acked map[deviceKey]uint64) {
	key := deviceKey{user, uuid.UUID{15: device}}
	hb := &engine.Heartbeat{Heartbeat: wire.Heartbeat{
		User: user, Device: key.device, Seq: seq, TTLMS: 3_600_000,
		Status: record.Status(rng.IntN(2)), Source: []byte("test"),
	}}
	for {
		c.mu.RLock()
		res := c.owners[c.of(user)].engine.Heartbeat(hb)
		c.mu.RUnlock()
		if res.Outcome == engine.Accepted || res.Outcome == engine.Stale && res.LastSeq == seq {
			acked[key] = seq
			return
		}
		if res.Outcome == engine.Stale {
			c.Errorf("device %v: seq %d is stale, the last is %d", key, seq, res.LastSeq)
			return
		}
		time.Sleep(time.Millisecond)
	}
}
