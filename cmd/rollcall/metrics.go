package main

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rollcall/checkpoint"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server"
	"rollcall/wal"
)

// registry returns what /metrics shows of any program: the Go runtime, the process, the version.
func registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "rollcall_build_info",
			Help:        "1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": buildVersion(), "go": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return r
}

// histograms observe single events of the other packages. Each call costs some tens of nanoseconds
// and comes once per batch, or per expiry: never per heartbeat or frame.
type histograms struct {
	lateness, delivery prometheus.Histogram
	// of the log: its commits, or in a cluster the appends to all logs
	commitRecords, commitSeconds prometheus.Histogram
}

// fastSeconds are the bounds of what takes less than a millisecond on an idle machine and must not
// take a second.
var fastSeconds = []float64{
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
}

func newHistograms(r *prometheus.Registry, clustered bool) *histograms {
	records, seconds := "log_commit_records", "log_commit_seconds"
	recordsHelp, secondsHelp := "Records committed at once.",
		"How long the write of a batch, and its sync where one was due, took."
	if clustered {
		records, seconds = "append_records", "append_seconds"
		recordsHelp, secondsHelp = "Records appended at once to the log of a partition.",
			"How long an append took, until most replicas had it."
	}
	histogram := func(name, help string, bounds []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rollcall_" + name, Help: help,
			Buckets: bounds})
		r.MustRegister(h)
		return h
	}
	return &histograms{
		lateness: histogram("expiry_lateness_seconds",
			"How long after its deadline a silent device was taken offline.", fastSeconds),
		delivery: histogram("delivery_seconds",
			"From the receipt of a batch's first heartbeat to the last write of the batch to a "+
				"user's streams.", fastSeconds),
		commitRecords: histogram(records, recordsHelp, prometheus.ExponentialBuckets(1, 4, 9)),
		commitSeconds: histogram(seconds, secondsHelp, fastSeconds),
	}
}

func (h *histograms) observeCommit(records uint64, took time.Duration) {
	h.commitRecords.Observe(float64(records))
	h.commitSeconds.Observe(took.Seconds())
}

// figures reads the counters of the other packages when Prometheus asks, so the hot path pays only
// for the counters.
type figures struct {
	presence presence
	server   *server.Server
}

// diskFigures are those of the log and the checkpoint of a node that is alone.
type diskFigures struct {
	log        *wal.Log
	checkpoint *checkpoint.Store
	stats      func() engine.Stats
}

var (
	heartbeatsDesc = desc("heartbeats_total", "Heartbeats, by outcome.", "outcome")
	expiriesDesc   = desc("expiries_total",
		"Devices that went offline because they were silent for their TTL.")
	forgottenDesc = desc("forgotten_total",
		"Devices forgotten because they were offline for longer than --forget-after.")
	devicesDesc        = desc("devices", "Known devices, by status.", "status")
	devicesLimitDesc   = desc("devices_limit", "Most devices that are kept (--max-devices).")
	devicesRefusedDesc = desc("devices_refused_total",
		"Heartbeats of new devices that were refused because of devices_limit.")
	userDevicesRefusedDesc = desc("user_devices_refused_total",
		"Heartbeats of new devices of users that had --max-devices-per-user, refused with 429.")
	usersDesc   = desc("users", "Users with a known device, by status.", "status")
	sourcesDesc = desc("sources",
		"Distinct source texts that devices have; each is kept once.")
	sourceBytesDesc = desc("source_bytes", "Length of these texts together.")

	streamsDesc      = desc("streams", "Streams now.")
	streamsLimitDesc = desc("streams_limit", "Most streams at a time; one more is answered 503.")
	listStreamsDesc  = desc("list_streams", "Of the streams, those that follow many users.")
	followsDesc      = desc("follows",
		"Users followed by streams of many users, each as often as it is followed.")
	followsLimitDesc = desc("follows_limit",
		"Most users that streams of many users may follow; one more is refused.")
	followedDesc  = desc("followed_users", "Users followed by streams of many users.")
	lingeringDesc = desc("lingering_follows",
		"Follows whose user has no device online and is told as online until linger_ms is over.")
	streamsOpenDesc   = desc("streams_opened_total", "Streams ever opened.")
	streamsClosedDesc = desc("streams_closed_total", "Streams ended, by reason.", "reason")
	inSnapshotDesc    = desc("streams_in_snapshot",
		"Streams that have a part of their snapshot: they wait for their turn or for their client.")
	laggingDesc = desc("streams_lagging",
		"Streams whose backlog is full: they get the newest state of each device when they take "+
			"bytes again.")
	framesDesc = desc("stream_frames_total",
		"Frames given to streams, snapshots not included.")
	streamBytesDesc = desc("stream_written_bytes_total", "Bytes written to streams.")
	writesDesc      = desc("stream_writes_total", "Writes to streams.")
	conflatedDesc   = desc("stream_conflations_total",
		"Times that a stream got the newest state of its devices instead of each event.")
	queueDesc      = desc("broadcast_queue_bytes", "Events that wait for a worker.")
	queueLimitDesc = desc("broadcast_queue_limit_bytes",
		"Bound of the queues of all workers together.")
	overflowsDesc = desc("broadcast_queue_overflows_total",
		"Times that a worker's queue was full and its streams were conflated.")
	pendingDesc      = desc("stream_pending_bytes", "Backlogs of all streams, and what the system holds in front of them.")
	pendingLimitDesc = desc("stream_pending_limit_bytes", "Bound of the backlogs of all streams.")

	syncsDesc    = desc("log_syncs_total", "Syncs of the log.")
	syncTimeDesc = desc("log_sync_seconds_total", "Time spent in syncs.")
	segmentsDesc = desc("log_segments", "Log segments on disk.")
	logBytesDesc = desc("log_bytes", "Size of the log on disk.")
	bufferDesc   = desc("log_buffer_bytes",
		"Capacity of the commit buffer; heartbeats are refused when it stays full.")
	bufferUseDesc = desc("log_buffer_used_bytes", "Bytes of the commit buffer in use.")
	appendedDesc  = desc("log_appended_lsn", "The last record's number.")
	inFlightDesc  = desc("log_commit_in_flight_seconds",
		"How long the write and sync in flight have lasted; 0: none is.")
	stallsDesc = desc("log_stalls_total",
		"Commits that the disk did not finish within a second.")
	noSpaceDesc = desc("log_no_space", "1 while the next segment cannot be prepared.")

	checkpointLSNDesc = desc("checkpoint_lsn",
		"What the last checkpoint is as of; log_appended_lsn minus this is what a restart replays.")
	checkpointBytesDesc = desc("checkpoint_bytes", "Size of the checkpoint on disk.")
	checkpointTimeDesc  = desc("checkpoint_timestamp_seconds",
		"When the last checkpoint was done, unix time; the start of the process before the first.")
	checkpointDurationDesc = desc("checkpoint_duration_seconds",
		"How long the last checkpoint since the start took.")
	checkpointFailuresDesc = desc("checkpoint_failures_total",
		"Checkpoints that failed; the log keeps growing until one succeeds.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rollcall_"+name, help, labels, nil)
}

// Describe sends nothing: what Collect sends is checked when it is gathered.
func (figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f figures) Collect(out chan<- prometheus.Metric) {
	to := sink(out)
	e := f.presence.Stats()
	f.collectPresence(to, &e)
	collectStreams(to, &e.Streams)
}

// Describe sends nothing, as that of figures.
func (diskFigures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f diskFigures) Collect(out chan<- prometheus.Metric) {
	to := sink(out)
	e := f.stats()
	f.collectLog(to)
	f.collectCheckpoint(to, &e)
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (s sink) counter(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (f figures) collectPresence(to sink, e *engine.Stats) {
	refused := f.server.Refused()
	to.counter(heartbeatsDesc, float64(e.Accepted), "accepted")
	to.counter(heartbeatsDesc, float64(e.Stale), "stale")
	to.counter(heartbeatsDesc, float64(refused.Invalid), "invalid")
	to.counter(heartbeatsDesc, float64(refused.Unauthorized), "unauthorized")
	to.counter(heartbeatsDesc, float64(refused.RateLimited), "rate_limited")
	to.counter(heartbeatsDesc, float64(e.Unavailable+refused.Unavailable), "unavailable")
	to.gauge(devicesDesc, float64(e.Online), "online")
	to.gauge(devicesDesc, float64(e.Offline), "offline")
	to.gauge(devicesLimitDesc, float64(e.MaxDevices))
	to.counter(devicesRefusedDesc, float64(e.DevicesRefused))
	to.counter(userDevicesRefusedDesc, float64(e.UserDevicesRefused))
	to.gauge(usersDesc, float64(e.UsersOnline), "online")
	to.gauge(usersDesc, float64(max(0, e.Users-e.UsersOnline)), "offline")
	to.gauge(sourcesDesc, float64(e.Sources))
	to.gauge(sourceBytesDesc, float64(e.SourceBytes))
	to.counter(expiriesDesc, float64(e.Expired))
	to.counter(forgottenDesc, float64(e.Forgotten))
}

func collectStreams(to sink, s *broadcast.Stats) {
	to.gauge(streamsDesc, float64(s.Streams))
	to.gauge(streamsLimitDesc, float64(s.MaxStreams))
	to.gauge(listStreamsDesc, float64(s.Lists))
	to.gauge(followsDesc, float64(s.Follows))
	to.gauge(followsLimitDesc, float64(s.MaxFollows))
	to.gauge(followedDesc, float64(s.Followed))
	to.gauge(lingeringDesc, float64(s.Lingering))
	to.counter(streamsOpenDesc, float64(s.Opened))
	for reason, n := range s.Closed {
		to.counter(streamsClosedDesc, float64(n), broadcast.Reason(reason).String())
	}
	to.gauge(inSnapshotDesc, float64(s.InSnapshot))
	to.gauge(laggingDesc, float64(s.Lagging))
	to.counter(framesDesc, float64(s.Frames))
	to.counter(streamBytesDesc, float64(s.Bytes))
	to.counter(writesDesc, float64(s.Writes))
	to.counter(conflatedDesc, float64(s.Conflated))
	to.gauge(queueDesc, float64(s.QueueBytes))
	to.gauge(queueLimitDesc, float64(s.QueueLimitBytes))
	to.counter(overflowsDesc, float64(s.Overflows))
	to.gauge(pendingDesc, float64(s.PendingBytes))
	to.gauge(pendingLimitDesc, float64(s.PendingLimitBytes))
}

func (f diskFigures) collectLog(to sink) {
	l := f.log.Stats()
	to.counter(syncsDesc, float64(l.Syncs))
	to.counter(syncTimeDesc, l.SyncTime.Seconds())
	to.gauge(segmentsDesc, float64(l.Segments))
	to.gauge(logBytesDesc, float64(l.SegmentBytes))
	to.gauge(bufferDesc, float64(l.BufferBytes))
	to.gauge(bufferUseDesc, float64(l.BufferUsedBytes))
	to.gauge(appendedDesc, float64(l.Appended))
	to.gauge(inFlightDesc, l.Committing.Seconds())
	to.counter(stallsDesc, float64(l.Stalls))
	noSpace := 0.0
	if l.NoSpace {
		noSpace = 1
	}
	to.gauge(noSpaceDesc, noSpace)
}

func (f diskFigures) collectCheckpoint(to sink, e *engine.Stats) {
	to.gauge(checkpointLSNDesc, float64(f.checkpoint.LSN()))
	to.gauge(checkpointBytesDesc, float64(f.checkpoint.Bytes()))
	to.gauge(checkpointTimeDesc, float64(e.Checkpointed.UnixMilli())/1000)
	to.gauge(checkpointDurationDesc, e.CheckpointTook.Seconds())
	to.counter(checkpointFailuresDesc, float64(e.CheckpointFailures))
}
