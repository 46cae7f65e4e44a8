package server

import (
	"cmp"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's counters. Handlers add to them; the collector reads them.
type metrics struct {
	answers [replyCount]atomic.Uint64
	// Those refusals of the above that were given to a heartbeat before the engine saw it, and to a stream: some rows of the
	// table serve both.
	heartbeats, streams [replyCount]atomic.Uint64
}

var (
	answersDesc = prometheus.NewDesc("rollcall_http_answers_total",
		"Answers on the public listener by status and reason.", []string{"status", "reason"}, nil)
	connsDesc = prometheus.NewDesc("rollcall_http_connections",
		"Open connections of the public listener, streams not included.", nil, nil)
	parkedDesc = prometheus.NewDesc("rollcall_http_connections_parked",
		"Of the open connections, those that are parked until their next request.", nil, nil)
	acceptDesc = prometheus.NewDesc("rollcall_http_accept_retries_total",
		"Accepts that failed for want of descriptors or memory and were tried again.", nil, nil)
	connsLimitDesc = prometheus.NewDesc("rollcall_http_connections_limit",
		"Most connections and streams together; one more is answered 503.", nil, nil)
	readyDesc = prometheus.NewDesc("rollcall_ready",
		"1 when /readyz answers 200, else 0.", nil, nil)
	streamsRefusedDesc = prometheus.NewDesc("rollcall_streams_refused_total",
		"Streams that were not opened, by reason.", []string{"reason"}, nil)
	addressesDesc = prometheus.NewDesc("rollcall_http_rate_addresses",
		"Source addresses that the rate limiter remembers.", nil, nil)
)

// collector shows the server to Prometheus.
type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answersDesc, connsDesc, parkedDesc, connsLimitDesc, acceptDesc, addressesDesc, readyDesc, streamsRefusedDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(values chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		values <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		values <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	for r := none + 1; r < replyCount; r++ {
		counter(answersDesc, c.s.metrics.answers[r].Load(), strconv.Itoa(answers[r].status), answers[r].details)
	}
	for reason, n := range c.s.streamsRefused() {
		counter(streamsRefusedDesc, n, reason)
	}
	gauge(connsDesc, int(c.s.conns.Load()))
	gauge(parkedDesc, c.s.parkedConns())
	gauge(connsLimitDesc, c.s.opts.MaxConns)
	counter(acceptDesc, c.s.acceptRetries())
	if l := c.s.limiter; l != nil {
		gauge(addressesDesc, l.addresses.Len())
	}
	ready := 0
	if c.s.notReady() == nil {
		ready = 1
	}
	gauge(readyDesc, ready)
}

// Refused counts the heartbeats that were refused before the engine saw them, by outcome.
type Refused struct {
	Invalid      uint64
	Unauthorized uint64 // where no token is configured too
	RateLimited  uint64
	Unavailable  uint64 // lines of a batch behind one that the log had no room for
}

// Refused returns the counts since New.
func (s *Server) Refused() (n Refused) {
	for r := range replyCount {
		count := s.metrics.heartbeats[r].Load()
		switch status := answers[r].status; {
		case r == unavailable:
			n.Unavailable += count
		case status == 401 || status == 503:
			n.Unauthorized += count
		case status == 429:
			n.RateLimited += count
		default:
			n.Invalid += count
		}
	}
	return n
}

// streamReasons are the reasons for which a stream is not opened. A row that is not among them counts as invalid.
var streamReasons = [replyCount]string{
	unauthorized:         "unauthorized",
	invalidToken:         "invalid_token",
	tokenExpired:         "token_expired",
	insufficientScope:    "insufficient_scope",
	tokenUserMismatch:    "user_mismatch",
	signingNotConfigured: "not_configured",
	draining:             "draining",
	tooManyStreams:       "too_many_streams",
	tooManyStreamsOfUser: "too_many_of_user",
	streamUnavailable:    "failed",
}

// streamsRefused counts the streams that were not opened, by reason; all reasons are there.
func (s *Server) streamsRefused() map[string]uint64 {
	counts := map[string]uint64{}
	for r := range replyCount {
		counts[cmp.Or(streamReasons[r], "invalid")] += s.metrics.streams[r].Load()
	}
	return counts
}

func (s *Server) acceptRetries() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		n += l.failed.Load()
	}
	return n
}

func (s *Server) parkedConns() int {
	s.mu.Lock()
	lot := s.lot
	s.mu.Unlock()
	return lot.len()
}
