package loadgen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// With Options.Batch a link is a gateway's: it carries heartbeats of many devices in one request,
// as newline-delimited JSON, and learns from one answer what became of each. A device still has one
// heartbeat on its way at most (G3), so no batch names it twice. In an open loop a gateway sends
// when it has a whole batch, or when the oldest heartbeat waited for batchWait; that wait is part
// of the latency (G2).

// batchWait is how long a gateway gathers.
const batchWait = int64(10 * time.Millisecond)

// flushBytes is how much output of a link is written at once.
const flushBytes = 64 << 10

// maxBatch keeps a body below wire.MaxBatchBytes.
const maxBatch = 10_000

// gatherer makes the next batch. Single owner: the worker's goroutine.
type gatherer struct {
	*turn
	crowd    *crowd
	meter    *meter
	ledger   *ledger
	arrivals *arrivals

	beats  []beat
	picked []uint32 // scratch: devices that the batch may name
}

// queued makes a batch of what is queued.
func (g *gatherer) queued() []beat {
	g.beats = g.beats[:0]
	for g.ledger.queue.len() > 0 && len(g.beats) < g.o.Batch {
		if b, ok := g.ledger.pop(); ok {
			g.take(b)
		}
	}
	return g.beats
}

// closed makes a batch for a closed loop: first of what is queued, then of devices that are idle.
func (g *gatherer) closed() []beat {
	queued := len(g.queued())
	for range 64 { // nearly always once: one device at least that is idle
		g.fresh(g.o.Batch - len(g.beats))
		if len(g.beats) > 0 {
			break
		}
	}
	g.meter.count(offered, int64(len(g.beats)-queued))
	return g.beats
}

// fresh tries so many devices. It chooses all before it looks at any, and looks at all before it
// uses one: each look is a cache miss, and so they overlap.
func (g *gatherer) fresh(n int) {
	g.picked = g.picked[:0]
	for range n {
		g.picked = append(g.picked, g.arrivals.device())
	}
	for _, d := range g.picked {
		g.ledger.load(d)
	}
	for _, d := range g.picked {
		if g.crowd.devices[d].idle(g.now) {
			g.take(beat{device: d, due: g.now})
		}
	}
}

// take takes b into the batch; its device is busy from now on.
func (g *gatherer) take(b beat) {
	g.ledger.hold(&g.crowd.devices[b.device])
	g.beats = append(g.beats, b)
}

// batchAnswer is the body of the answer to a batch.
type batchAnswer struct {
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"`
	Errors   []struct {
		Line    int    `json:"line"`
		Status  int    `json:"status"`
		LastSeq *int64 `json:"last_seq"`
	} `json:"errors"`
	Omitted  int `json:"errors_omitted"`
	Unstored int `json:"unavailable_from"`
}

// allAccepted recognises the answer that nearly always comes.
func allAccepted(body []byte, n int) bool {
	rest, ok := bytes.CutPrefix(body, []byte(`{"accepted":`))
	count, rest, ok2 := cutInt(rest)
	return ok && ok2 && count == int64(n) && bytes.HasPrefix(rest, []byte(`,"rejected":0,`))
}

// readLines reads an answer that lists rejected lines. Lines that a shortened list leaves open have
// status 0. With an error nothing is known of any line.
func readLines(body []byte, n int) ([]answer, error) {
	lines := make([]answer, n)
	var a batchAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return lines, err
	}
	if a.Accepted+a.Rejected != n || len(a.Errors)+a.Omitted != a.Rejected {
		return lines, fmt.Errorf("%d accepted and %d rejected (%d listed, %d omitted)",
			a.Accepted, a.Rejected, len(a.Errors), a.Omitted)
	}
	for i := range lines {
		switch {
		case a.Omitted == 0: // all rejected ones are listed below
			lines[i].status = 204
		case a.Unstored > 0 && i+1 >= a.Unstored:
			lines[i].status = 503
		}
	}
	for i, e := range a.Errors {
		if e.Line < 1 || e.Line > n || i > 0 && e.Line <= a.Errors[i-1].Line {
			return make([]answer, n), fmt.Errorf("line %d is listed", e.Line)
		}
		lines[e.Line-1].status = e.Status
		if e.LastSeq != nil {
			lines[e.Line-1].lastSeq, lines[e.Line-1].hasSeq = *e.LastSeq, true
		}
	}
	return lines, nil
}
