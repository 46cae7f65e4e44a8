package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/wal"
)

// registry returns what /metrics shows beside the server's own: the Go runtime, the process, the engine and the log.
func registry(log *wal.Log, checkpoint *wal.Checkpoint, e *engine.Engine) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		figures{log, checkpoint, e},
	)
	return r
}

// figures reads the counters of engine and log when Prometheus asks: the hot path pays for nothing but the counters.
type figures struct {
	log        *wal.Log
	checkpoint *wal.Checkpoint
	engine     *engine.Engine
}

var (
	heartbeatsDesc = desc("heartbeats_total", "Heartbeats that reached the engine, by outcome.", "outcome")
	expiriesDesc   = desc("expiries_total", "Devices that went offline because they were silent for their TTL.")
	forgottenDesc  = desc("forgotten_total", "Devices forgotten because they were offline for longer than --forget-after.")
	devicesDesc    = desc("devices", "Devices in memory.")
	usersDesc      = desc("users", "Users with a device in memory.")

	streamsDesc       = desc("streams", "Streams now.")
	streamsOpenDesc   = desc("streams_opened_total", "Streams ever opened.")
	streamsClosedDesc = desc("streams_closed_total", "Streams ended, by reason.", "reason")
	laggingDesc       = desc("streams_lagging", "Streams whose backlog is full: they get the newest state of each device when they take bytes again.")
	framesDesc        = desc("stream_frames_total", "Frames given to streams, snapshots not included.")
	streamBytesDesc   = desc("stream_written_bytes_total", "Bytes written to streams.")
	writesDesc        = desc("stream_writes_total", "Writes to streams.")
	conflatedDesc     = desc("stream_conflations_total", "Times that a stream got the newest state of its devices instead of each event.")
	queueDesc         = desc("broadcast_queue_bytes", "Events that wait for a worker.")
	overflowsDesc     = desc("broadcast_queue_overflows_total", "Times that a worker's queue was full and its streams were conflated.")
	pendingDesc       = desc("stream_pending_bytes", "Backlogs of all streams.")

	batchesDesc         = desc("log_batches_total", "Batches committed: writes to the log, and with --sync=always syncs.")
	recordsDesc         = desc("log_records_total", "Records committed.")
	syncsDesc           = desc("log_syncs_total", "Syncs of the log.")
	syncTimeDesc        = desc("log_sync_seconds_total", "Time spent in syncs.")
	segmentsDesc        = desc("log_segments", "Log segments on disk.")
	logBytesDesc        = desc("log_bytes", "Size of the log on disk.")
	bufferDesc          = desc("log_buffer_bytes", "Capacity of the commit buffer; heartbeats are refused when it stays full.")
	bufferUseDesc       = desc("log_buffer_used_bytes", "Bytes of the commit buffer in use.")
	checkpointLSNDesc   = desc("checkpoint_lsn", "What the last checkpoint is as of; log_appended_lsn minus this is what a restart replays.")
	checkpointBytesDesc = desc("checkpoint_bytes", "Size of the checkpoint on disk.")
	appendedDesc        = desc("log_appended_lsn", "The last record's number.")

	noSpaceDesc = desc("log_no_space", "1 while the next segment cannot be prepared.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rollcall_"+name, help, labels, nil)
}

// Describe sends nothing: what Collect sends is checked when it is gathered.
func (figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f figures) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	e := f.engine.Stats()
	counter(heartbeatsDesc, float64(e.Accepted), "accepted")
	counter(heartbeatsDesc, float64(e.Stale), "stale")
	counter(heartbeatsDesc, float64(e.Unavailable), "unavailable")
	counter(expiriesDesc, float64(e.Expired))
	counter(forgottenDesc, float64(e.Forgotten))
	gauge(devicesDesc, float64(e.Devices))
	gauge(usersDesc, float64(e.Users))

	s := e.Streams
	gauge(streamsDesc, float64(s.Streams))
	counter(streamsOpenDesc, float64(s.Opened))
	for reason, n := range s.Closed {
		counter(streamsClosedDesc, float64(n), broadcast.Reason(reason).String())
	}
	gauge(laggingDesc, float64(s.Lagging))
	counter(framesDesc, float64(s.Frames))
	counter(streamBytesDesc, float64(s.Bytes))
	counter(writesDesc, float64(s.Writes))
	counter(conflatedDesc, float64(s.Conflated))
	gauge(queueDesc, float64(s.QueueBytes))
	counter(overflowsDesc, float64(s.Overflows))
	gauge(pendingDesc, float64(s.PendingBytes))

	l := f.log.Stats()
	counter(batchesDesc, float64(l.Batches))
	counter(recordsDesc, float64(l.Records))
	counter(syncsDesc, float64(l.Syncs))
	counter(syncTimeDesc, l.SyncTime.Seconds())
	gauge(segmentsDesc, float64(l.Segments))
	gauge(logBytesDesc, float64(l.SegmentBytes))
	gauge(bufferDesc, float64(l.BufferBytes))
	gauge(bufferUseDesc, float64(l.BufferUsedBytes))
	gauge(appendedDesc, float64(l.Appended))
	gauge(checkpointLSNDesc, float64(f.checkpoint.LSN()))
	gauge(checkpointBytesDesc, float64(f.checkpoint.Bytes()))
	noSpace := 0.0
	if l.NoSpace {
		noSpace = 1
	}
	gauge(noSpaceDesc, noSpace)
}
