package server

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's counters. Handlers add to them; the collector reads them.
type metrics struct {
	answers [replyCount]atomic.Uint64
}

var (
	answersDesc = prometheus.NewDesc("rollcall_http_answers_total",
		"Answers on the public listener by status and reason.", []string{"status", "reason"}, nil)
	connsDesc = prometheus.NewDesc("rollcall_http_connections",
		"Open connections of the public listener, streams not included.", nil, nil)
	acceptDesc = prometheus.NewDesc("rollcall_http_accept_retries_total",
		"Accepts that failed for want of descriptors or memory and were tried again.", nil, nil)
	addressesDesc = prometheus.NewDesc("rollcall_http_rate_addresses",
		"Source addresses that the rate limiter remembers.", nil, nil)
)

// collector shows the server to Prometheus.
type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answersDesc, connsDesc, acceptDesc, addressesDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(values chan<- prometheus.Metric) {
	for r := none + 1; r < replyCount; r++ {
		values <- prometheus.MustNewConstMetric(answersDesc, prometheus.CounterValue,
			float64(c.s.metrics.answers[r].Load()), strconv.Itoa(answers[r].status), answers[r].details)
	}
	values <- prometheus.MustNewConstMetric(connsDesc, prometheus.GaugeValue, float64(c.s.conns.Load()))
	values <- prometheus.MustNewConstMetric(acceptDesc, prometheus.CounterValue, float64(c.s.acceptRetries()))
	if l := c.s.limiter; l != nil {
		values <- prometheus.MustNewConstMetric(addressesDesc, prometheus.GaugeValue, float64(l.addresses.Len()))
	}
}

func (s *Server) acceptRetries() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		n += l.failed.Load()
	}
	return n
}
