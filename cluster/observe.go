package cluster

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster/members"
	"rollcall/engine"
)

// observer tells operators and Prometheus what this node knows of the cluster. Any goroutine may
// use it.
type observer struct {
	cluster, node string
	replicas      int
	maxSkew       time.Duration
	clock         engine.Clock
	directory     *directory
	holdings      *holdings
	copies        *copies
	leader        func() string // of the cluster; "": none
	members       func() []string
	ready         func() error
	deed          func(ctx context.Context) *members.Deed // the last one; nil: none is known
	balance       func() string
}

// deedWait is how long the last deed is asked for, beside the copies.
const deedWait = time.Second

// status is what this node knows at this instant. What the leaders of the logs say, of the copies
// and of what is being done, is left out where they cannot be asked within ctx.
func (v *observer) status(ctx context.Context) *Status {
	deeds := make(chan *members.Deed, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, deedWait)
		defer cancel()
		deeds <- v.deed(ctx)
	}()
	s := &Status{
		Cluster: v.cluster, Node: v.node, AtMS: int64(v.clock().WallMS), Leader: v.leader(),
		Replicas: v.replicas, MaxSkewMS: v.maxSkew.Milliseconds(), Nodes: v.nodes(),
		Balance: v.balance(),
	}
	if err := v.ready(); err != nil {
		s.NotReady = err.Error()
	}
	logs, _ := v.copies.get(ctx) // the leader that is missing then says it all
	for p := range v.holdings.parts {
		own := v.directory.ownership(p)
		s.Partitions = append(s.Partitions, PartitionStatus{
			Partition: p, Owner: v.directory.owner(p), Epoch: own.epoch, Sure: own.sure,
			Replicas: logs[streamOf(p)], Claimed: v.holdings.parts[p].last.Load(),
		})
	}
	s.note(<-deeds)
	return s
}

// nodes are the members, this one among them, and others that are in reach: they join, or leave. A
// member that is gone is missed for as long as it is one.
func (v *observer) nodes() (nodes []NodeStatus) {
	now, members := v.clock.Nanos(), v.members()
	unheard := make(map[string]bool)
	for _, name := range members {
		unheard[name] = true
	}
	for _, p := range v.directory.heard() {
		if len(members) > 0 && !unheard[p.Node] && !v.directory.reaches(p.Node) {
			continue
		}
		delete(unheard, p.Node)
		nodes = append(nodes, NodeStatus{
			Name: p.Node, Version: p.Version, Formats: p.Formats,
			HeardMS: (now - p.heardNanos) / int64(time.Millisecond),
			InReach: v.directory.reaches(p.Node), Draining: p.Draining, Unusable: p.Unusable,
			SkewMS: p.skewMS,
		})
	}
	for name := range unheard {
		nodes = append(nodes, NodeStatus{
			Name: name, HeardMS: -1, InReach: v.directory.reaches(name),
		})
	}
	slices.SortFunc(nodes, func(a, b NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

var (
	partitionsDesc = prometheus.NewDesc("rollcall_partitions",
		"Partitions that this node owns, is claiming, or knows no owner of.",
		[]string{"state"}, nil)
	peersDesc = prometheus.NewDesc("rollcall_peers",
		"Other members of the cluster, by whether they are in reach.",
		[]string{"state"}, nil)
	skewDesc = prometheus.NewDesc("rollcall_peer_clock_skew_seconds",
		"The clock of another node minus this node's, the way of its last pulse included.",
		[]string{"peer"}, nil)
	maxSkewDesc = prometheus.NewDesc("rollcall_clock_skew_limit_seconds",
		"How far the clocks of two nodes may be apart (--cluster-max-skew).", nil, nil)
	copiesDesc = prometheus.NewDesc("rollcall_log_copies",
		"Copies of the logs of this node's partitions, by whether they have all that is committed.",
		[]string{"state"}, nil)
	lagDesc = prometheus.NewDesc("rollcall_raft_lag",
		"Most messages that a copy of the log of one of this node's partitions lacks.", nil, nil)
)

// scrapeWait is how long a scrape waits for what is known of the copies.
const scrapeWait = time.Second

// Describe sends nothing: what Collect sends is checked when it is gathered.
func (*observer) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (v *observer) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, is float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, is, labels...)
	}
	owned, claiming, leaderless := v.count()
	gauge(partitionsDesc, float64(owned), "owned")
	gauge(partitionsDesc, float64(claiming), "claiming")
	gauge(partitionsDesc, float64(leaderless), "leaderless")
	there, gone := 0, 0
	for _, n := range v.nodes() {
		switch {
		case n.Name == v.node:
			continue
		case n.InReach:
			there++
		default:
			gone++
		}
		if n.HeardMS >= 0 {
			gauge(skewDesc, float64(n.SkewMS)/1000, n.Name)
		}
	}
	gauge(peersDesc, float64(there), "in_reach")
	gauge(peersDesc, float64(gone), "gone")
	gauge(maxSkewDesc, v.maxSkew.Seconds())
	v.collectCopies(gauge)
}

// collectCopies tells of the copies, or nothing where their leaders do not answer.
func (v *observer) collectCopies(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWait)
	defer cancel()
	logs, err := v.copies.get(ctx)
	if err != nil {
		return
	}
	current, behind, lag := 0, 0, uint64(0)
	for _, o := range v.holdings.all() {
		for _, r := range logs[streamOf(o.partition)] {
			if r.Current && !r.Offline {
				current++
				continue
			}
			behind++
			lag = max(lag, r.Lag)
		}
	}
	gauge(copiesDesc, float64(current), "current")
	gauge(copiesDesc, float64(behind), "behind")
	gauge(lagDesc, float64(lag))
}

// count counts partitions by what they are to this node.
func (v *observer) count() (owned, claiming, leaderless int) {
	owned = len(v.holdings.all())
	for p := range v.holdings.parts {
		if v.holdings.parts[p].busy.Load() {
			claiming++
		}
		if v.directory.owner(p) == "" {
			leaderless++
		}
	}
	return owned, max(0, claiming-owned), leaderless
}
