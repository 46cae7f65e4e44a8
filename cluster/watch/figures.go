package watch

import "github.com/prometheus/client_golang/prometheus"

var (
	usersDesc = prometheus.NewDesc("rollcall_edge_users",
		"Users that this node watches at the owners of their partitions.", nil, nil)
	heldDesc = prometheus.NewDesc("rollcall_edge_held_streams",
		"Streams that are open and wait for the states of their users.", nil, nil)
	unansweredDesc = prometheus.NewDesc("rollcall_edge_unanswered_streams_total",
		"Streams that ended since the states of their users did not come.", nil, nil)
	doubtsDesc = prometheus.NewDesc("rollcall_edge_gaps_total",
		"How often all users of a partition were asked for again, by why.", []string{"reason"}, nil)
	unreadDesc = prometheus.NewDesc("rollcall_edge_unread_total",
		"Messages of owners that could not be read, or not be taken.", nil, nil)
)

func newRewatch() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "rollcall_edge_rewatch_seconds",
		Help: "From a doubt about a partition until all of its users were told again.",
		Buckets: []float64{
			.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30,
		},
	})
}

// Describe implements prometheus.Collector.
func (e *Edge) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		usersDesc, heldDesc, unansweredDesc, doubtsDesc, unreadDesc,
	} {
		ch <- d
	}
	e.rewatch.Describe(ch)
}

// Collect implements prometheus.Collector.
func (e *Edge) Collect(ch chan<- prometheus.Metric) {
	s := e.Stats()
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(usersDesc, s.Users)
	gauge(heldDesc, s.Held)
	count(unansweredDesc, s.Unanswered)
	count(doubtsDesc, s.Gaps, "lost")
	count(doubtsDesc, s.Silences, "silence")
	count(doubtsDesc, s.Claims, "claim")
	count(unreadDesc, s.Unread)
	e.rewatch.Collect(ch)
}
