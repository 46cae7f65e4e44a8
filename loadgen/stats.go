package loadgen

import (
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// histogram counts durations in microseconds with three digits, up to an hour; longer ones count as
// an hour. The nil histogram is empty.
type histogram struct{ h *hdrhistogram.Histogram }

const histogramMax = 3600 * 1e6

func newHistogram() *histogram {
	return &histogram{hdrhistogram.New(1, histogramMax, 3)}
}

// record counts one duration in nanoseconds.
func (h *histogram) record(nanos int64) { h.recordMany(nanos, 1) }

// recordMany counts it n times.
func (h *histogram) recordMany(nanos, n int64) {
	if err := h.h.RecordValues(min(max(nanos/1000, 1), histogramMax), n); err != nil {
		panic(fmt.Sprintf("bug: %v", err))
	}
}

func (h *histogram) add(other *histogram) {
	if other != nil {
		h.h.Merge(other.h)
	}
}

func (h *histogram) count() int64 {
	if h == nil {
		return 0
	}
	return h.h.TotalCount()
}

// at is the duration at a percentile, in milliseconds.
func (h *histogram) at(percentile float64) float64 {
	if h.count() == 0 {
		return 0
	}
	return float64(h.h.ValueAtPercentile(percentile)) / 1000
}

// The histograms of a run.
const (
	toAnswer    = iota // heartbeat due → 204
	toFrame            // heartbeat due → its frame on a stream
	toSlow             // the same on a stream that reads slowly on purpose
	toOffline          // TTL due → offline frame
	toSnapshot         // connect due → last device of the snapshot
	toListEvent        // heartbeat due → its event on a list
	toSynced           // connect of a list due → synced
	ownLag             // heartbeat due → the generator's loop got to it: the generator's own fault
	kinds
)

// The counts of a run.
const (
	offered        = iota // heartbeats that fell due
	written               // requests, with retries and deliberate repeats; a batch is one
	accepted              // heartbeats known to be accepted
	conflicts             // 409s, all kinds
	retries               // written again after a cut, a timeout or a 503
	cuts                  // connections that ended with a heartbeat outstanding
	refused               // connects that failed
	refusals              // 503s
	limited               // 429s
	timeouts              // heartbeats unanswered for too long
	abandoned             // heartbeats without an answer when the run gave up on them
	frames                // live and snapshot frames
	skipped               // frames that a stream skipped: conflated
	offlines              // offline frames of expiries, one per stream that showed it
	connects              // streams connected
	streamFailures        // streams that could not be connected, or were answered 503
	ended                 // streams that the server ended
	comments              // keepalives

	listEvents        // of lists, live and in snapshots
	listBytes         // read by lists, framing too
	listSnapshots     // whole snapshots of lists
	listSnapshotBytes // until they were synced
	listResumes       // cursors that were honoured
	listResumeBytes   // until they were synced
	listRenewals      // tokens of open lists that were renewed
	counts
)

var countNames = [counts]string{
	offered:        "offered",
	written:        "requests",
	accepted:       "accepted",
	conflicts:      "conflicts",
	retries:        "retries",
	cuts:           "cut",
	refused:        "connect_failures",
	refusals:       "unavailable",
	limited:        "rate_limited",
	timeouts:       "timeouts",
	abandoned:      "abandoned",
	frames:         "frames",
	skipped:        "conflated",
	offlines:       "expiries_shown",
	connects:       "stream_connects",
	streamFailures: "stream_failures",
	ended:          "streams_ended",
	comments:       "keepalives",

	listEvents:        "list_events",
	listBytes:         "list_bytes",
	listSnapshots:     "list_snapshots",
	listSnapshotBytes: "list_snapshot_bytes",
	listResumes:       "list_resumes",
	listResumeBytes:   "list_resume_bytes",
	listRenewals:      "list_renewals",
}

// tally is what was counted and measured over some stretch of the run. Its owner is one goroutine
// at a time.
type tally struct {
	n    [counts]int64
	hist [kinds]*histogram
}

func (t *tally) record(kind int, nanos int64) { t.recordMany(kind, nanos, 1) }

func (t *tally) recordMany(kind int, nanos, n int64) {
	if t.hist[kind] == nil {
		t.hist[kind] = newHistogram()
	}
	t.hist[kind].recordMany(nanos, n)
}

func (t *tally) add(other *tally) {
	for i, n := range other.n {
		t.n[i] += n
	}
	for i, h := range other.hist {
		if h.count() == 0 {
			continue
		}
		if t.hist[i] == nil {
			t.hist[i] = newHistogram()
		}
		t.hist[i].add(h)
	}
}

// reset empties t and keeps its histograms' memory.
func (t *tally) reset() {
	t.n = [counts]int64{}
	for _, h := range t.hist {
		if h != nil {
			h.h.Reset()
		}
	}
}

// errors is the number of heartbeats' troubles.
func (t *tally) errors() int64 {
	return t.n[cuts] + t.n[refused] + t.n[refusals] + t.n[limited] + t.n[timeouts]
}
