package server

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
)

// maxBatchErrors is how many rejected lines an answer lists.
const maxBatchErrors = 100

// batch is what one request of many heartbeats needs; pooled, so that a heartbeat allocates nothing (S5). Its size does not
// depend on the request's: a window of the body, a group of heartbeats, and the rejected lines that the answer will list.
//
//	body ► unpacker ► lines ► group of heartbeats ► engine.Apply ► ... next group ... ► engine.Settle ► answer
type batch struct {
	unpacker unpacker
	lines    lines
	reader   reader

	// The group that is not applied yet: what became of its lines, in order, and the heartbeats of those that are valid.
	judged  []judged
	beats   []engine.Heartbeat
	results [engine.GroupSize]engine.Result
	applied engine.Batch

	accepted, rejected int
	listed             int    // rejected lines in errors
	errors             []byte // the answer's list, as JSON
	answer             []byte // scratch
	unstored           int    // the first of the lines at the end that the log did not take; 0: it took all
}

// judged is a line of the group.
type judged struct {
	line    int
	refusal reply // none: it is the group's next heartbeat
}

var batches = sync.Pool{New: func() any {
	return &batch{
		lines:  lines{window: make([]byte, windowBytes)},
		judged: make([]judged, 0, engine.GroupSize),
		beats:  make([]engine.Heartbeat, 0, engine.GroupSize),
	}
}}

// release puts b back with nothing of the request but the shape of its texts.
func (b *batch) release() {
	b.unpacker.close()
	*b = batch{
		lines:  lines{window: b.lines.window},
		reader: b.reader,
		judged: b.judged[:0], beats: b.beats[:0],
		errors: b.errors[:0], answer: b.answer[:0],
	}
	batches.Put(b)
}

// heartbeats answers POST heartbeatsPath.
func (s *Server) heartbeats(ctx *fasthttp.RequestCtx) {
	array, coding, refusal := s.batchForm(ctx)
	if refusal != none {
		s.refuseHeartbeat(ctx, refusal)
		return
	}
	if len(coding) > 0 {
		if s.unpacking.Add(1) > maxUnpacking {
			s.unpacking.Add(-1)
			s.answer(ctx, tooManyUnpacking)
			return
		}
		defer s.unpacking.Add(-1)
	}
	b := batches.Get().(*batch)
	defer b.release()
	end := b.unpacked(ctx, coding)
	if end == none {
		b.lines.reset(&b.unpacker, array)
		end = s.applyLines(ctx, b)
	}
	if err := s.presence.Settle(&b.applied); err != nil {
		s.answerUnavailable(ctx, err)
		return
	}
	if b.unpacker.whole() {
		_ = ctx.Request.CloseBodyStream() // so that the connection can be used again
	}
	s.answerBatch(ctx, b, end)
}

// batchForm makes the checks that come before the body: token, type, coding, size.
func (s *Server) batchForm(ctx *fasthttp.RequestCtx) (array bool, coding []byte, refusal reply) {
	if refusal = s.ingest(ctx); refusal != none {
		return false, nil, refusal
	}
	media, _, _ := bytes.Cut(ctx.Request.Header.ContentType(), []byte(";"))
	switch media = bytes.TrimSpace(media); {
	case bytes.EqualFold(media, []byte("application/json")):
		array = true
	case len(media) > 0 && !bytes.EqualFold(media, []byte("application/x-ndjson")):
		return false, nil, unknownBatchType
	}
	switch coding = ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); string(coding) {
	case "", "identity":
		coding = nil
	case "gzip", "zstd":
	default:
		return false, nil, unknownEncoding
	}
	if ctx.Request.Header.ContentLength() > maxBatchBytes {
		return false, nil, batchTooLarge
	}
	return array, coding, none
}

// unpacked begins to read the body.
func (b *batch) unpacked(ctx *fasthttp.RequestCtx, coding []byte) reply {
	if err := b.unpacker.open(ctx, coding); err != nil {
		return b.unpacker.refusal(err)
	}
	return none
}

// applyLines judges and applies the lines as they arrive. It returns why it ended before the body did, or none; what it had
// read until then is applied in either case. When it has to wait for more of the body it applies what it has.
func (s *Server) applyLines(ctx *fasthttp.RequestCtx, b *batch) reply {
	group := engine.GroupSize
	if s.limiter != nil {
		group = 1 // the limit wants to know of each line whether it is stale, so all before it must be applied
	}
	for count := 0; ; {
		text, c := b.lines.next()
		switch c {
		case cutText, cutTooLong:
			if count++; count > s.opts.MaxBatch {
				s.applyGroup(b)
				return batchTooLong
			}
			b.judged = append(b.judged, judged{b.lines.number, s.judge(ctx, b, text, c)})
			if len(b.judged) == group {
				s.applyGroup(b)
			}
		case cutMore:
			s.applyGroup(b)   // its heartbeats point into the window
			runtime.Gosched() // a window is much work for one turn on a processor; the log's commits wait for one
			if err := b.lines.fill(); err != nil {
				return b.unpacker.refusal(err)
			}
		case cutEnd:
			s.applyGroup(b)
			return none
		case cutBroken:
			s.applyGroup(b)
			return malformedBatch
		}
	}
}

// judge makes the single route's checks of a line; none: it is the last of b.beats. When the log has refused a line, those
// after it are not looked at: all of them are to be sent again.
func (s *Server) judge(ctx *fasthttp.RequestCtx, b *batch, text []byte, c cut) reply {
	if b.unstored > 0 {
		return unavailable
	}
	if c == cutTooLong {
		return bodyTooLarge
	}
	n := len(b.beats)
	b.beats = b.beats[:n+1]
	hb := &b.beats[n]
	refusal := b.reader.read(text, hb)
	if refusal == none && s.overRate(ctx, hb) {
		refusal = rateLimited
	}
	if refusal != none {
		b.beats = b.beats[:n]
	}
	return refusal
}

// applyGroup applies the heartbeats that were judged and notes what became of all lines, in their order.
func (s *Server) applyGroup(b *batch) {
	if len(b.beats) > 0 {
		s.presence.Apply(&b.applied, b.beats, b.results[:len(b.beats)])
	}
	results := b.results[:len(b.beats)]
	for _, j := range b.judged {
		var result engine.Result
		if j.refusal == none {
			result, results = results[0], results[1:]
		}
		s.note(b, j, result)
	}
	b.judged, b.beats = b.judged[:0], b.beats[:0]
}

// note counts a line, and lists it if it was rejected.
func (s *Server) note(b *batch, j judged, result engine.Result) {
	r := j.refusal
	if r == none {
		r = s.outcome(b, j.line, result)
	}
	if b.unstored > 0 {
		r = unavailable // also a line that was found bad before the log was asked: it is judged when it comes again
	}
	if j.refusal != none {
		s.metrics.heartbeats[r].Add(1) // the engine did not see it
	}
	if r == accepted {
		b.accepted++
		return
	}
	b.rejected++
	if b.listed < maxBatchErrors {
		b.list(j.line, r, result.LastSeq)
	}
}

// outcome is the reply to a line that was applied, or was to be.
func (s *Server) outcome(b *batch, line int, result engine.Result) reply {
	switch result.Outcome {
	case engine.Accepted:
		return accepted
	case engine.Stale:
		return staleSeq
	}
	s.logRefusal(result.Err)
	if result.LogFull && b.unstored == 0 {
		b.unstored = line
	}
	return unavailable
}

// list adds a line to the answer's errors.
func (b *batch) list(line int, r reply, lastSeq uint64) {
	w := appender{b.errors}
	if b.listed > 0 {
		w.text = append(w.text, ',')
	}
	b.listed++
	w.text = append(w.text, '{')
	w.member("line", line)
	w.member("status", answers[r].status)
	body := answers[r].body
	w.text = append(w.text, body[1:len(body)-1]...)
	if r == staleSeq {
		w.text = append(w.text, `,"last_seq":`...)
		w.text = strconv.AppendUint(w.text, lastSeq, 10)
	}
	b.errors = append(w.text, '}')
}

// answerBatch tells what became of the lines, and with end why there was no more to read.
func (s *Server) answerBatch(ctx *fasthttp.RequestCtx, b *batch, end reply) {
	row := end
	if end == none {
		row = batchDone
	}
	s.answer(ctx, row)
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	w := appender{b.answer[:0]}
	if end != none {
		body := answers[end].body
		w.text = append(append(w.text, body[:len(body)-1]...), ',')
		line := b.lines.number + 1
		if end == batchTooLong {
			line-- // the one too many was cut off already
		}
		w.member("line", line)
	} else {
		w.text = append(w.text, '{')
	}
	w.member("accepted", b.accepted)
	w.member("rejected", b.rejected)
	if omitted := b.rejected - b.listed; omitted > 0 {
		w.member("errors_omitted", omitted)
	}
	if b.unstored > 0 {
		w.member("unavailable_from", b.unstored)
	}
	w.text = append(w.text, `"errors":[`...)
	w.text = append(append(w.text, b.errors...), `]}`...)
	b.answer = w.text
	ctx.Response.SetBody(b.answer)
}

// appender writes members of a JSON object.
type appender struct{ text []byte }

func (w *appender) member(name string, n int) {
	w.text = append(append(append(w.text, '"'), name...), `":`...)
	w.text = append(strconv.AppendInt(w.text, int64(n), 10), ',')
}
