package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster/embed"
	"rollcall/cluster/forward"
	"rollcall/cluster/members"
	"rollcall/cluster/partition"
	"rollcall/cluster/watch"
	"rollcall/cursor"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/wire"
)

// Why a node is not ready.
var (
	ErrStarting = errors.New("starting: the node has not joined the cluster yet")
	ErrIsolated = errors.New("no majority of the cluster's nodes is in reach")
)

// Node is one node of a cluster. It owns some partitions, takes heartbeats and questions for all of
// them to their owners, and has streams that follow users of any. Make one with New. It joins the
// parts, and its methods may be called from any goroutine unless they say otherwise.
type Node struct {
	*presence
	o Options

	follower  *engine.Follower
	directory *directory
	figures   *claimFigures

	bus      *lateBus
	accepted atomic.Pointer[[]string] // the keys that others may show
	hellos   atomic.Int32             // that are being answered

	// From Start on.
	identity *identity
	edge     *watch.Edge
	holdings *holdings
	pulses   *pulses
	observer *observer
	campaign *campaigns
	damage   *damage
	balance  balance

	// From the opening of the logs on: what may run before asks hosted, which is server then.
	server   *embed.Server
	own      *embed.Bus // what bus is then
	operator *operator
	hosted   atomic.Pointer[embed.Server]

	phase    atomic.Int32
	isolated atomic.Bool
	// memberNames is stored by watchReach.
	memberNames atomic.Pointer[[]string]
	closed      atomic.Bool
	failure     atomic.Pointer[error]
	failed      chan struct{}

	stop     chan struct{}
	stopOnce sync.Once
	loops    sync.WaitGroup
}

const (
	starting int32 = iota
	serving
	draining
)

// New makes a node. It opens nothing.
func New(o Options) (*Node, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Engine.Clock == nil {
		o.Engine.Clock = engine.NewClock()
	}
	o.Engine.Logger = o.Logger
	if most := o.Engine.MaxDevices; most > 0 {
		o.Engine.DeviceBudget, o.Engine.MaxDevices = engine.NewDeviceBudget(most), 0
	}
	n := &Node{
		o: o, bus: newLateBus(o.Node),
		directory: newDirectory(o.Engine.Clock, o.Partitions), figures: newClaimFigures(),
		failed: make(chan struct{}), stop: make(chan struct{}),
	}
	n.accepted.Store(&o.Keys)
	follower := o.Engine
	follower.DeviceBudget = nil
	if n.follower, err = engine.NewFollower(follower); err != nil {
		return nil, err
	}
	return n, nil
}

// Start joins the cluster, or makes it with the others. It returns when this node's logs are open,
// and goes on in the background, see Ready. A node whose directory is empty does all of it there:
// it waits until a peer says that it may join, or until Bootstrap nodes have met; what it cannot do
// then is told by Failed. Once.
func (n *Node) Start(context.Context) (err error) {
	if n.identity, err = openIdentity(n.o.Dir, n.o.Node, n.o.Logger); err != nil {
		return err
	}
	if err := n.checkDirectory(); err != nil {
		return err
	}
	if err := n.checkListen(); err != nil {
		return err
	}
	if err := n.assemble(); err != nil {
		return err
	}
	n.follower.Start()
	n.edge.Start()
	n.loops.Go(n.watchRefusals)
	if n.identity.found {
		return n.open()
	}
	n.loops.Go(func() {
		if err := n.enter(); err != nil && !errors.Is(err, errStopped) {
			n.fail(err)
		}
	})
	return nil
}

// enter starts a node whose directory is empty.
func (n *Node) enter() error {
	if err := n.introduce(); err != nil {
		return err
	}
	if err := n.identity.change(func(*marker) {}); err != nil {
		return err
	}
	return n.open()
}

// open starts the server with the logs, and what needs it.
func (n *Node) open() (err error) {
	if n.server, err = embed.Start(n.serverOptions()); err != nil {
		return err
	}
	if n.own, err = embed.NewBus(n.server); err != nil {
		return err
	}
	n.holdings.conn, n.campaign.raft = n.server.Conn(), n.server
	n.observer.copies.connect(n.server.Conn())
	n.operator = newOperator(n)
	n.bus.Handle(helloSubject, n.answerHello)
	n.bus.attach(n.own)
	n.hosted.Store(n.server) // and so all that is above
	n.pulses.start()
	n.loops.Go(n.watchReach)
	n.loops.Go(n.join)
	n.loops.Go(func() { n.operator.run(n.stop) })
	n.loops.Go(func() { n.operator.balance(n.stop) })
	if n.o.FastFailover {
		n.loops.Go(func() { n.campaign.run(n.stop) })
	}
	return nil
}

// checkListen finds out whether the server will be able to listen: it would say so in its log only.
func (n *Node) checkListen() error {
	ln, err := net.Listen("tcp", n.o.Listen)
	if err != nil {
		return fmt.Errorf("cluster: option Listen: %w", err)
	}
	return ln.Close()
}

// logsDir is where the logs are.
func (n *Node) logsDir() string { return filepath.Join(n.o.Dir, "js") }

// serverOptions are those of the server with the logs.
func (n *Node) serverOptions() embed.Options {
	o := &n.o
	return embed.Options{
		Node: o.Node, Cluster: o.Name, Dir: n.logsDir(), Listen: o.Listen, Peers: o.PeerAddrs(),
		Key: o.key(), Accepts: func() []string { return *n.accepted.Load() }, TLS: o.TLS,
		Quorum: o.SyncQuorum, Expect: o.Bootstrap, Logger: o.Logger,
	}
}

// assemble makes the parts that talk to others.
func (n *Node) assemble() (err error) {
	o, clock := &n.o, n.o.Engine.Clock
	of := func(user uuid.UUID) int { return partition.Of(user, o.Partitions) }
	n.edge, err = watch.NewEdge(watch.EdgeOptions{
		Bus: n.bus, Follower: watch.Of(n.follower), Clock: clock, Partitions: o.Partitions, Of: of,
		Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	n.pulses = &pulses{
		bus: n.bus, clock: clock, directory: n.directory, edge: n.edge,
		own: func() pulse {
			return pulse{
				Node: o.Node, Version: o.Version, Formats: formats,
				Draining: n.phase.Load() == draining, ID: n.identity.get().ID,
				Missing: n.damage.own(), Unusable: n.holdings.unusable(),
			}
		},
		met: n.identity.met, members: n.members,
		wake: newRouser(), stop: make(chan struct{}),
	}
	n.holdings = newHoldings(holdingsConfig{
		node: o.Node, count: o.Partitions, bus: n.bus, clock: clock,
		engine: n.engineOptions(), check: n.checkStream,
		leads:    func(stream string) bool { return n.server.Leads(stream) },
		abdicate: func(stream string) { n.server.Abdicate(stream) },
		figures:  n.figures, logger: o.Logger,
		may:     func() bool { return n.phase.Load() == serving && !n.isolated.Load() },
		must:    n.isolated.Load,
		changed: n.pulses.now,
		newest:  func(p int) uint64 { return n.directory.ownership(p).epoch },
		calm:    n.directory.calm,
		observe: func(records int, took time.Duration) {
			if o.ObserveAppend != nil {
				o.ObserveAppend(uint64(records), took)
			}
		},
	})
	n.pulses.owned = n.holdings
	n.observer = &observer{
		cluster: o.Name, node: o.Node, replicas: o.Replicas, maxSkew: o.MaxSkew, clock: clock,
		directory: n.directory, holdings: n.holdings,
		copies: &copies{named: n.identity.named, missing: n.directory.missing},
		leader: n.leader, members: n.members, ready: n.Ready,
		deed: n.deed, balance: n.balance.get,
	}
	n.damage = &damage{
		missing:  func() map[string]uint64 { return n.server.Missing() },
		first:    func() map[string]uint64 { return n.server.First() },
		holdings: n.holdings, copies: n.directory.damaged, logger: o.Logger,
		repaired: map[int]time.Time{},
	}
	n.campaign = newCampaigns(o.Node, clock, n.directory, nil, o.Partitions,
		func() bool { return n.phase.Load() == serving && !n.isolated.Load() }, o.Logger)
	n.presence = newPresence(n.bus, o.Partitions, owners{n.holdings, n.directory},
		followed{n.follower, n.edge}, clock, forward.Options{})
	return nil
}

// leader is the node that decides where logs are; "": none is known.
func (n *Node) leader() (leader string) {
	if server := n.hosted.Load(); server != nil {
		leader, _ = server.Meta()
	}
	return leader
}

// members are the nodes that the cluster has, as this one knows them; none: it does not yet.
func (n *Node) members() []string {
	if all := n.memberNames.Load(); all != nil {
		return *all
	}
	return nil
}

// learnMembers looks which they are.
func (n *Node) learnMembers() {
	_, all := n.server.Meta()
	for i := range all {
		all[i] = n.identity.named(all[i])
	}
	n.memberNames.Store(&all)
}

// deed is what an operator, or the leader of the cluster, did last to it; nil: nothing is known.
func (n *Node) deed(ctx context.Context) *members.Deed {
	if n.hosted.Load() == nil || n.phase.Load() == starting {
		return nil
	}
	d, err := n.operator.lastDeed(ctx)
	if err != nil || d.Kind == "" {
		return nil
	}
	return &d
}

// partitionShards is how many shards the table of a partition has: a node has many tables.
const partitionShards = 256

// engineOptions are those of a partition's engine.
func (n *Node) engineOptions() engine.Options {
	o := n.o.Engine
	o.Shards = partitionShards
	o.MaxSkew = n.o.MaxSkew // C8
	o.Broadcast = broadcast.Options{}
	o.ObserveDelivery = nil
	return o
}

// owners say who has which partition.
type owners struct {
	*holdings
	*directory
}

// Owner implements partitions.
func (o owners) Owner(p int) string { return o.directory.owner(p) }

// followed is what the streams of this node were sent.
type followed struct {
	*engine.Follower
	edge *watch.Edge
}

// Fresh implements read.Edge.
func (f followed) Fresh(user uuid.UUID) bool { return f.edge.Fresh(user) }

// Take implements server.Presence.
func (n *Node) Take(c net.Conn) (broadcast.Conn, error) { return n.follower.Take(c) }

// Subscribe implements server.Presence.
func (n *Node) Subscribe(s broadcast.Subscription) error { return n.edge.Subscribe(s) }

// History implements server.Presence: cursors are of this process.
func (n *Node) History() *cursor.History { return n.follower.History() }

// Retry implements server.Presence.
func (n *Node) Retry() time.Duration { return n.follower.Retry() }

// SetRestart says how long a restart of this node takes.
func (n *Node) SetRestart(d time.Duration) { n.follower.SetRestart(d) }

// OpenStreams is how many streams this node has.
func (n *Node) OpenStreams() int { return n.follower.OpenStreams() }

// Stats are the figures of the partitions of this node, and of its streams.
func (n *Node) Stats() engine.Stats {
	sum := n.holdings.stats()
	sum.Streams = n.follower.Stats().Streams
	return sum
}

// Ready implements server.Presence. It tells of this node, never of the cluster as a whole: else
// all nodes would leave a balancer at once.
func (n *Node) Ready() error {
	if err := n.Err(); err != nil {
		return err
	}
	switch {
	case n.phase.Load() == starting:
		return ErrStarting
	case n.phase.Load() == draining:
		return engine.ErrDraining
	case n.isolated.Load():
		return ErrIsolated
	}
	return nil
}

// Failed is closed when the node cannot go on; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is why the node cannot go on; nil: it can.
func (n *Node) Err() error {
	if err := n.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail says that the node cannot go on. The first reason counts.
func (n *Node) fail(err error) {
	if n.failure.CompareAndSwap(nil, &err) {
		close(n.failed)
	}
}

// SetKeys says which keys other nodes may show from now on. What this one shows stays.
func (n *Node) SetKeys(keys []string) { n.accepted.Store(&keys) }

// Collectors are the metrics of what a node has beside engines and streams. After Start.
func (n *Node) Collectors() []prometheus.Collector {
	return append(n.figures.collectors(), n.presence.forward, n.edge, n.observer,
		n.campaign.count)
}

// Status is what this node knows of the cluster. After Start.
func (n *Node) Status(ctx context.Context) *Status { return n.observer.status(ctx) }

// ServeHTTP answers /clusterz, and what operators ask for below it. After Start.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case n.hosted.Load() != nil:
		n.operator.routes.ServeHTTP(w, r)
	case r.URL.Path == "/clusterz":
		n.Status(r.Context()).answer(w)
	default:
		answerError(w, http.StatusServiceUnavailable, wire.CodeUnavailable, ErrStarting)
	}
}

// Close ends every stream, resigns from the node's partitions and stops its log server. It waits
// for calls in flight until ctx is done. The node takes no calls afterwards, but for Close, which
// does nothing then.
func (n *Node) Close(ctx context.Context) error {
	if n.closed.Swap(true) {
		return nil
	}
	n.phase.Store(draining)
	n.stopOnce.Do(func() { close(n.stop) })
	if n.hosted.Load() != nil {
		n.operator.close()
	}
	n.loops.Wait()
	if n.holdings != nil {
		n.presence.close()
		n.holdings.close()
		n.pulses.close()
		n.edge.Close()
	}
	err := n.follower.Close(ctx)
	n.bus.attach(nil)
	if n.own != nil {
		n.own.Close()
	}
	if n.server != nil {
		n.server.Close()
	}
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}
