package cluster

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	ready         func() error
}

// status is what this node knows at this instant. What the leaders of the logs say of the copies is
// left out where they cannot be asked within ctx.
func (v *observer) status(ctx context.Context) *Status {
	s := &Status{
		Cluster: v.cluster, Node: v.node, AtMS: int64(v.clock().WallMS), Leader: v.leader(),
		Replicas: v.replicas, MaxSkewMS: v.maxSkew.Milliseconds(), Nodes: v.nodes(),
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
	return s
}

// nodes are those that were heard, this one among them.
func (v *observer) nodes() (nodes []NodeStatus) {
	now := v.clock.Nanos()
	for _, p := range v.directory.heard() {
		nodes = append(nodes, NodeStatus{
			Name: p.Node, Version: p.Version, Formats: p.Formats,
			HeardMS: (now - p.heardNanos) / int64(time.Millisecond),
			InReach: v.directory.reaches(p.Node), Draining: p.Draining, SkewMS: p.skewMS,
		})
	}
	return nodes
}

var (
	partitionsDesc = prometheus.NewDesc("rollcall_partitions",
		"Partitions that this node owns, is claiming, or knows no owner of.",
		[]string{"state"}, nil)
	peersDesc = prometheus.NewDesc("rollcall_peers",
		"Other nodes that were heard since the start, by whether they are in reach.",
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
		gauge(skewDesc, float64(n.SkewMS)/1000, n.Name)
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
