package cluster

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster/members"
	"rollcall/engine"
)

// claimFigures count claims, and how long they take, and moves. Any goroutine may use them.
type claimFigures struct {
	claims  *prometheus.CounterVec // by reason
	failed  prometheus.Counter
	resigns *prometheus.CounterVec // by reason
	claim   prometheus.Histogram
	replay  prometheus.Histogram
	moves   *prometheus.CounterVec // by kind and outcome
	moving  *prometheus.GaugeVec   // by kind
}

// moveOwner is the kind of a move of an owner. The others, of copies, are the kinds of deeds.
const moveOwner = "owner"

// Why claims and resigns are made.
const (
	firstClaim    = "leads"
	laterClaim    = "leads_again"
	handedOver    = "handed_over"
	resignedDoubt = "in_doubt"
)

func newClaimFigures() *claimFigures {
	seconds := []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	f := &claimFigures{
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_claims_total",
			Help: "Partitions that this node has claimed, by reason.",
		}, []string{"reason"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_claims_failed_total",
			Help: "Claims of partitions that did not succeed; each is tried again.",
		}),
		resigns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_resigns_total",
			Help: "Partitions that this node has resigned from, by reason.",
		}, []string{"reason"}),
		claim: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rollcall_claim_seconds",
			Help:    "From the find that this node leads a log until it served the partition.",
			Buckets: seconds,
		}),
		replay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rollcall_replay_seconds",
			Help:    "How long the log of a claimed partition was read.",
			Buckets: seconds,
		}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_moves_total",
			Help: "Copies of logs, and owners, that this node has moved, by why and what came of it.",
		}, []string{"kind", "outcome"}),
		moving: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rollcall_moves_in_flight",
			Help: "Moves of copies of logs, and of owners, that this node has under way, by why.",
		}, []string{"kind"}),
	}
	for _, kind := range append(members.Kinds(), moveOwner) {
		f.moving.WithLabelValues(kind)
		f.moves.WithLabelValues(kind, moveDone)
		f.moves.WithLabelValues(kind, moveFailed)
	}
	for _, reason := range []string{firstClaim, laterClaim} {
		f.claims.WithLabelValues(reason)
	}
	for _, reason := range []string{handedOver, resignedDoubt} {
		f.resigns.WithLabelValues(reason)
	}
	return f
}

func (f *claimFigures) claimed(reason string, took time.Duration) {
	f.claims.WithLabelValues(reason).Inc()
	f.claim.Observe(took.Seconds())
}

func (f *claimFigures) resigned(why error) {
	reason := handedOver
	if why != nil {
		reason = resignedDoubt
	}
	f.resigns.WithLabelValues(reason).Inc()
}

// What comes of moves.
const (
	moveDone   = "done"
	moveFailed = "failed"
)

// move counts a move, which over ends.
func (f *claimFigures) move(kind string) (over func(error)) {
	f.moving.WithLabelValues(kind).Inc()
	return func(err error) {
		f.moving.WithLabelValues(kind).Dec()
		outcome := moveDone
		if err != nil {
			outcome = moveFailed
		}
		f.moves.WithLabelValues(kind, outcome).Inc()
	}
}

func (f *claimFigures) collectors() []prometheus.Collector {
	return []prometheus.Collector{f.claims, f.failed, f.resigns, f.claim, f.replay,
		f.moves, f.moving}
}

// addGone adds the counters of an engine that goes to a sum, and nothing of what it holds.
func addGone(sum *engine.Stats, s engine.Stats) {
	addStats(sum, engine.Stats{
		Accepted: s.Accepted, Stale: s.Stale, Unavailable: s.Unavailable,
		Expired: s.Expired, Forgotten: s.Forgotten,
		DevicesRefused: s.DevicesRefused, UserDevicesRefused: s.UserDevicesRefused,
		CheckpointFailures: s.CheckpointFailures,
		Checkpointed:       s.Checkpointed, CheckpointTook: s.CheckpointTook,
	})
}

// addStats adds the figures of an engine to a sum. Of checkpoints the last one counts. What bounds
// the devices bounds all engines together.
func addStats(sum *engine.Stats, s engine.Stats) {
	sum.Accepted += s.Accepted
	sum.Stale += s.Stale
	sum.Unavailable += s.Unavailable
	sum.Expired += s.Expired
	sum.Forgotten += s.Forgotten
	sum.DevicesRefused += s.DevicesRefused
	sum.UserDevicesRefused += s.UserDevicesRefused
	sum.Online += s.Online
	sum.Offline += s.Offline
	sum.Devices += s.Devices
	sum.MaxDevices = max(sum.MaxDevices, s.MaxDevices)
	sum.Users += s.Users
	sum.UsersOnline += s.UsersOnline
	sum.Sources += s.Sources
	sum.SourceBytes += s.SourceBytes
	sum.CheckpointFailures += s.CheckpointFailures
	if s.Checkpointed.After(sum.Checkpointed) {
		sum.Checkpointed, sum.CheckpointTook = s.Checkpointed, s.CheckpointTook
	}
}
