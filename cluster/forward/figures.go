package forward

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is what came of a forwarded heartbeat, as the metrics name it.
type outcome uint8

const (
	outcomeAccepted outcome = iota
	outcomeStale
	outcomeRefused // by the owner: too many devices, not stored
	outcomeNew     // the owner does not know the device, and its sender is asked first
	outcomeNotMine
	outcomeFull
	outcomeTimeout
	outcomeDown
	outcomes
)

var outcomeNames = [outcomes]string{
	"accepted", "stale", "refused", "new", "not_mine", "full", "timeout", "down",
}

var outcomeOf = [codes]outcome{
	codeAccepted:       outcomeAccepted,
	codeStale:          outcomeStale,
	codeNotMine:        outcomeNotMine,
	codeTooManyDevices: outcomeRefused,
	codeTooManyOfUser:  outcomeRefused,
	codeNew:            outcomeNew,
	codeNoRoom:         outcomeFull,
	codeNotStored:      outcomeRefused,
}

// figures are what is counted. Any goroutine may use them.
type figures struct {
	seconds *prometheus.HistogramVec
	beats   prometheus.Histogram
	lost    prometheus.Counter // answers that could not be sent
	unread  prometheus.Counter // messages that could not be read
	all     *prometheus.CounterVec
	byName  [outcomes]prometheus.Counter
}

func newFigures() *figures {
	f := &figures{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_forward_seconds",
			Help: "From the first heartbeat of a message to the last answer to it, by owner.",
			Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1,
				2.5},
		}, []string{"peer"}),
		beats: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rollcall_forward_beats",
			Help:    "Heartbeats of one message to an owner.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		all: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_forwards_total",
			Help: "Heartbeats handed to the owners of their partitions, by what came of them.",
		}, []string{"outcome"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_forward_answers_lost_total",
			Help: "Messages with answers that were dropped since too much waited for the node.",
		}),
		unread: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_forward_unread_total",
			Help: "Messages of other nodes that could not be read.",
		}),
	}
	for o, name := range outcomeNames {
		f.byName[o] = f.all.WithLabelValues(name)
	}
	return f
}

func (f *figures) count(o outcome, n int) { f.byName[o].Add(float64(n)) }

func (f *figures) took(peer string, d time.Duration) {
	f.seconds.WithLabelValues(peer).Observe(d.Seconds())
}

// Describe implements prometheus.Collector.
func (f *Forwarder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range f.figures.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (f *Forwarder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range f.figures.collectors() {
		c.Collect(ch)
	}
}

func (f *figures) collectors() []prometheus.Collector {
	return []prometheus.Collector{f.seconds, f.beats, f.all, f.lost, f.unread}
}
