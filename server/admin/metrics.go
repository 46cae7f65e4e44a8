package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/server/conns"
	"rollcall/server/reply"
)

// Metrics shows the public side to Prometheus: the counters are read when it asks.
type Metrics struct {
	Counters *reply.Counters
	Conns    *conns.Conns
	MaxConns int
	Rate     *conns.Rate // nil: no limit
	Ready    func() error

	Batches    func() int // whose body is being read
	MaxBatches int

	QueryBytes    func() int // of answers that are made or written
	MaxQueryBytes int

	AdminConns   *Conns
	AdminRefused *Refused
	LongTTLs     func() uint64 // heartbeats with a TTL of more than a day
}

var (
	answersDesc = prometheus.NewDesc("rollcall_http_answers_total",
		"Answers on the public listener, by status and reason.", []string{"status", "reason"}, nil)
	connsDesc = prometheus.NewDesc("rollcall_http_connections",
		"Open connections of the public listener, without streams.", nil, nil)
	idleDesc = prometheus.NewDesc("rollcall_http_connections_parked",
		"Of the open connections, those that wait in a loop for their next request.", nil, nil)
	plainDesc = prometheus.NewDesc("rollcall_loop_heartbeats_total",
		"Heartbeats that the event loops served.", nil, nil)
	returnedDesc = prometheus.NewDesc("rollcall_loop_returns_total",
		"Connections that left a loop for a request that it does not serve.", nil, nil)
	standInsDesc = prometheus.NewDesc("rollcall_loop_stand_ins_total",
		"Commits so slow that another thread took a loop over meanwhile.", nil, nil)
	acceptDesc = prometheus.NewDesc("rollcall_http_accept_retries_total",
		"Accepts that failed for want of descriptors or memory and were tried again.", nil, nil)
	evictedDesc = prometheus.NewDesc("rollcall_http_connections_evicted_total",
		"Connections without a valid token that were closed at the limit to make room.", nil, nil)
	noHeaderDesc = prometheus.NewDesc("rollcall_http_proxy_headers_missing_total",
		"Connections of proxies that were closed for want of a PROXY protocol header.", nil, nil)
	connsLimitDesc = prometheus.NewDesc("rollcall_http_connections_limit",
		"Most connections and streams together; one more is answered 503.", nil, nil)
	readyDesc = prometheus.NewDesc("rollcall_ready",
		"1 when /readyz answers 200, else 0.", nil, nil)
	streamsRefusedDesc = prometheus.NewDesc("rollcall_streams_refused_total",
		"Streams that were not opened, by reason.", []string{"reason"}, nil)
	batchesDesc = prometheus.NewDesc("rollcall_http_batches",
		"Batches whose body is read or worked on.", nil, nil)
	batchesLimitDesc = prometheus.NewDesc("rollcall_http_batches_limit",
		"Most batches whose body is read or worked on; one more is answered 503.", nil, nil)
	queryBytesDesc = prometheus.NewDesc("rollcall_http_query_bytes",
		"Memory of the answers to queries that are made or written.", nil, nil)
	queryLimitDesc = prometheus.NewDesc("rollcall_http_query_limit_bytes",
		"Most memory of answers to queries; one more is answered 503.", nil, nil)
	adminConnsDesc = prometheus.NewDesc("rollcall_admin_connections",
		"Open connections of the operators' listener; 64 at most.", nil, nil)
	adminRefusedDesc = prometheus.NewDesc("rollcall_admin_refused_total",
		"Requests to the operators' listener that were refused before their route, by reason, and "+
			"too_many_connections: connections that were closed for others.", []string{"reason"}, nil)
	newDevicesDesc = prometheus.NewDesc("rollcall_new_devices_limited_total",
		"Heartbeats of new devices that were answered 429 because of --new-devices-per-ip.", nil, nil)
	longTTLsDesc = prometheus.NewDesc("rollcall_long_ttl_heartbeats_total",
		"Heartbeats with a ttl_ms of more than 24 hours that were not refused for it.", nil, nil)
	addressesDesc = prometheus.NewDesc("rollcall_http_rate_addresses",
		"Source addresses that the rate limiter remembers.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		answersDesc, connsDesc, idleDesc, connsLimitDesc, plainDesc, returnedDesc, standInsDesc,
		acceptDesc, addressesDesc, readyDesc,
		streamsRefusedDesc, batchesDesc, batchesLimitDesc, queryBytesDesc, queryLimitDesc,
		evictedDesc, noHeaderDesc,
		adminConnsDesc, adminRefusedDesc,
		newDevicesDesc, longTTLsDesc,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(values chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		values <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		values <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	for r := reply.None + 1; r < reply.Count; r++ {
		counter(answersDesc, m.Counters.Answers[r].Load(), strconv.Itoa(r.Status()), r.Details())
	}
	for reason, n := range m.Counters.StreamsRefused() {
		counter(streamsRefusedDesc, n, reason)
	}
	counter(newDevicesDesc, m.Counters.Heartbeats[reply.TooManyNewDevices].Load())
	counter(longTTLsDesc, m.LongTTLs())
	conns := m.Conns.Stats()
	gauge(connsDesc, conns.Open)
	gauge(idleDesc, conns.Idle)
	counter(plainDesc, conns.Plain)
	counter(returnedDesc, conns.Returned)
	counter(standInsDesc, conns.StandIns)
	gauge(connsLimitDesc, m.MaxConns)
	counter(acceptDesc, conns.AcceptRetries)
	gauge(batchesDesc, m.Batches())
	gauge(batchesLimitDesc, m.MaxBatches)
	gauge(queryBytesDesc, m.QueryBytes())
	gauge(queryLimitDesc, m.MaxQueryBytes)
	counter(evictedDesc, conns.Evicted)
	counter(noHeaderDesc, conns.BadHeaders)
	if m.Rate != nil {
		gauge(addressesDesc, m.Rate.Addresses())
	}
	gauge(adminConnsDesc, m.AdminConns.Open())
	for why := range reasons {
		counter(adminRefusedDesc, m.AdminRefused.counts[why].Load(), reasonNames[why])
	}
	ready := 0
	if m.Ready() == nil {
		ready = 1
	}
	gauge(readyDesc, ready)
}
