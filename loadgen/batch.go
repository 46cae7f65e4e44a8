package loadgen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// With Options.Batch a link is a gateway's: it carries heartbeats of many devices in one request, as newline-delimited JSON,
// and learns from one answer what became of each. A device still has one heartbeat on its way at most (G3), so no batch names
// it twice. In an open loop a gateway sends when it has a whole batch, or when the oldest heartbeat waited for batchWait;
// that wait is part of the latency (G2).

// batchWait is how long a gateway gathers.
const batchWait = int64(10 * time.Millisecond)

// flushBytes is how much output of a link is written at once.
const flushBytes = 64 << 10

// maxBatch keeps a body well under what the server takes.
const maxBatch = 10_000

// batchTemplate is the bytes of a batch.
type batchTemplate struct {
	head string // up to the number of bytes that follow the headers
	line requestTemplate
}

func newBatchTemplate(host, path, token string, ttl time.Duration) batchTemplate {
	line := newBody(ttl)
	line.request = append(line.request, '\n')
	return batchTemplate{
		head: fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\n"+
			"Content-Length: ", path, host, token),
		line: line,
	}
}

// begin appends the head of a request with n lines.
func (t *batchTemplate) begin(dst []byte, n int) []byte {
	dst = append(dst, t.head...)
	dst = strconv.AppendInt(dst, int64(n*len(t.line.request)), 10)
	return append(dst, "\r\n\r\n"...)
}

// outstanding is how many requests wait for their answer.
func (l *link) outstanding() int {
	if l.w.o.Batch > 1 {
		return l.batches.len()
	}
	return l.flights.len()
}

// dispatchBatches gives queued heartbeats to free links.
func (w *worker) dispatchBatches() {
	for w.free.len() > 0 && w.now >= w.batchDue() {
		l := w.free.pop()
		l.inFree = false
		if l.state != linkUp {
			continue
		}
		w.gathered = w.gathered[:0]
		for w.queue.len() > 0 && len(w.gathered) < w.o.Batch {
			b := w.queue.pop()
			if d := &w.devices[b.device]; !d.busy || b.kind == again {
				w.gather(b)
			} else if b.kind == fresh {
				w.waiting[b.device] = append(w.waiting[b.device], b.due)
			}
		}
		l.sendBatch()
		w.offer(l)
	}
}

// batchDue is when the queue is to be sent.
func (w *worker) batchDue() int64 {
	switch n := w.queue.len(); {
	case n == 0:
		return never
	case n >= w.o.Batch || w.stage != loading:
		return w.now
	}
	return w.queue.front().due + batchWait
}

// refillBatches keeps a link of a closed loop full.
func (w *worker) refillBatches(l *link) {
	for l.state == linkUp && l.batches.len() < w.o.Pipeline {
		w.gatherClosed()
		if len(w.gathered) == 0 {
			w.await(l)
			return
		}
		l.sendBatch()
	}
}

// gatherClosed fills a batch: first with what is to be sent again, then with devices that are not busy. It chooses all devices
// before it looks at any, and looks at all before it uses one, since each look is a cache miss: so they overlap.
func (w *worker) gatherClosed() {
	w.gathered = w.gathered[:0]
	for w.queue.len() > 0 && len(w.gathered) < w.o.Batch {
		if b := w.queue.pop(); b.kind != repeat || !w.devices[b.device].busy {
			w.gather(b)
		}
	}
	again := len(w.gathered)
	for range 64 { // nearly always once: one device at least that is not busy
		w.gatherFresh(w.o.Batch - len(w.gathered))
		if len(w.gathered) > 0 {
			break
		}
	}
	w.count(offered, int64(len(w.gathered)-again))
}

// gatherFresh tries so many devices.
func (w *worker) gatherFresh(n int) {
	w.picked = w.picked[:0]
	for range n {
		w.picked = append(w.picked, w.pick.device(w))
	}
	for _, d := range w.picked {
		w.touched ^= w.devices[d].acked
	}
	for _, d := range w.picked {
		if w.devices[d].idle(w.now) {
			w.gather(beat{device: d, due: w.now})
		}
	}
}

// gather takes b into the next batch; its device is busy from now on.
func (w *worker) gather(b beat) {
	if d := &w.devices[b.device]; !d.busy {
		d.busy = true
		w.busy++
	}
	w.gathered = append(w.gathered, b)
}

// sendBatch appends a request with all that was gathered to the link's output.
func (l *link) sendBatch() {
	w := l.w
	n := len(w.gathered)
	if n == 0 {
		return
	}
	l.out = w.batch.begin(l.out, n)
	for _, b := range w.gathered {
		l.sendLine(b)
	}
	l.batches.push(n)
	w.count(written, 1)
	if l.touch(); len(l.out)-l.wrote >= flushBytes {
		l.flush() // at the end of the turn the server would get those of all links at once, having waited for the last
	}
}

func (l *link) sendLine(b beat) {
	w := l.w
	d, number := w.launch(b)
	l.out = w.batch.line.stamp(l.out, &d.userID, &d.id, w.run.sentMS+w.now/1e6, w.run.seqBase+int64(number))
	l.flights.push(flight{b, number, w.now})
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

// lineAnswer is what an answer says of one line.
type lineAnswer struct {
	status int // 204: accepted; 0: it does not say
	last   int64
	told   bool // last is last_seq
}

// batchAnswered decides what an answer means for the heartbeats of its batch.
func (l *link) batchAnswered(a answer) {
	w := l.w
	n := l.batches.pop()
	switch {
	case a.status == 200 && allAccepted(a.body, n), a.status == 204 && w.o.NoOracle:
		l.acceptLines(n)
	case a.status == 200:
		lines, err := w.readLines(a.body, n)
		if err != nil {
			w.oracle.protocol("an answer to %d heartbeats: %v: %.200q", n, err, a.body)
		}
		for _, line := range lines {
			l.lineAnswered(l.flights.pop(), line)
		}
	case a.status == 503 || a.status == 429:
		for range n {
			l.lineAnswered(l.flights.pop(), lineAnswer{status: a.status})
		}
	default:
		w.run.fail(fmt.Errorf("loadgen: the server answers a batch with %d: %.200s", a.status, a.body))
	}
}

// allAccepted recognises the answer that nearly always comes.
func allAccepted(body []byte, n int) bool {
	rest, ok := bytes.CutPrefix(body, []byte(`{"accepted":`))
	count, rest, ok2 := cutInt(rest)
	return ok && ok2 && count == int64(n) && bytes.HasPrefix(rest, []byte(`,"rejected":0,`))
}

// acceptLines accepts the next n heartbeats of the link. It counts and records once for those of one due time.
func (l *link) acceptLines(n int) {
	w := l.w
	w.outage.end(w.now)
	for i := range n { // they left the caches since they were sent: met in one go, their misses overlap
		w.touched ^= w.devices[l.flights.at(i).device].acked
	}
	due, run := int64(never), int64(0)
	for range n {
		f := l.flights.pop()
		if f.kind == repeat {
			l.lineAnswered(f, lineAnswer{status: 204})
			continue
		}
		if f.due != due {
			w.acceptedAt(due, run)
			due, run = f.due, 0
		}
		run++
		w.acknowledge(f)
	}
	w.acceptedAt(due, run)
}

// readLines reads an answer that lists rejected lines. What a list that was cut short leaves open is sent again, and an error
// says what cannot be: then nothing is known of any line.
func (w *worker) readLines(body []byte, n int) ([]lineAnswer, error) {
	lines := make([]lineAnswer, n)
	var a batchAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return lines, err
	}
	if a.Accepted+a.Rejected != n || len(a.Errors)+a.Omitted != a.Rejected {
		return lines, fmt.Errorf("%d accepted and %d rejected (%d listed, %d omitted)", a.Accepted, a.Rejected, len(a.Errors), a.Omitted)
	}
	for i := range lines {
		switch {
		case a.Unstored > 0 && i+1 >= a.Unstored:
			lines[i].status = 503
		case a.Omitted == 0:
			lines[i].status = 204
		}
	}
	for i, e := range a.Errors {
		if e.Line < 1 || e.Line > n || i > 0 && e.Line <= a.Errors[i-1].Line {
			return make([]lineAnswer, n), fmt.Errorf("line %d is listed", e.Line)
		}
		lines[e.Line-1].status = e.Status
		if e.LastSeq != nil {
			lines[e.Line-1].last, lines[e.Line-1].told = *e.LastSeq, true
		}
	}
	return lines, nil
}
