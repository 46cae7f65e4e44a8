package server

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/wire"
)

// maxBatchErrors is how many rejected lines an answer lists.
const maxBatchErrors = engine.MaxRejections

// batch is what one request of many heartbeats needs; pooled, so that a heartbeat allocates nothing (S5). Its size does not
// depend on the request's: a window of the body, a group of heartbeats, and the rejected lines that the answer will list.
//
//	batchBody ► splitter ► decoder ► group of heartbeats ► Add ► ... next group ... ► Settle ► answer
type batch struct {
	body     batchBody
	splitter *wire.Splitter
	decoder  wire.Decoder

	// The group that is not applied yet: its valid lines and the others, each in order.
	beats   []engine.Heartbeat
	refused []refusedLine
	applied engine.Batch // the heartbeats' Index is their line

	refusals int           // lines that the engine did not see, of the groups that were applied
	first    []refusedLine // of these, as many as an answer lists
	answer   []byte        // scratch
}

// refusedLine is a line that the engine does not see.
type refusedLine struct {
	line    int
	refusal reply
}

var batches = sync.Pool{New: func() any {
	return &batch{
		splitter: wire.NewSplitter(),
		beats:    make([]engine.Heartbeat, 0, engine.GroupSize),
		refused:  make([]refusedLine, 0, engine.GroupSize),
	}
}}

// release puts b back with nothing of the request but the shape of its texts.
func (b *batch) release() {
	b.body.close()
	b.applied.Release()
	*b = batch{
		splitter: b.splitter, decoder: b.decoder,
		beats: b.beats[:0], refused: b.refused[:0], first: b.first[:0],
		answer: b.answer[:0],
	}
	batches.Put(b)
}

// heartbeats answers POST wire.HeartbeatsPath.
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
	b.applied = s.presence.NewBatch()
	defer b.release()
	b.splitter.Reset(array)
	end := b.open(ctx, coding)
	if end == none {
		end = s.applyLines(ctx, b)
	}
	if err := b.applied.Settle(); err != nil {
		s.answerUnavailable(ctx, err)
		return
	}
	if why := b.applied.Counts().Err; why != nil {
		s.logRefusal(why)
	}
	if b.body.whole() {
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
	case bytes.EqualFold(media, jsonType):
		array = true
	case len(media) > 0 && !bytes.EqualFold(media, ndjsonType):
		return false, nil, unknownBatchType
	}
	switch coding = ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); string(coding) {
	case "", "identity":
		coding = nil
	case "gzip", "zstd":
	default:
		return false, nil, unknownEncoding
	}
	if ctx.Request.Header.ContentLength() > wire.MaxBatchBytes {
		return false, nil, batchTooLarge
	}
	return array, coding, none
}

// open begins to read the body.
func (b *batch) open(ctx *fasthttp.RequestCtx, coding []byte) reply {
	if err := b.body.open(ctx, coding); err != nil {
		return b.body.refusal(err)
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
		text, c := b.splitter.Next()
		switch c {
		case wire.CutText, wire.CutTooLong:
			if count++; count > s.opts.MaxBatch {
				s.applyGroup(b)
				return batchTooLong
			}
			if refusal := s.judge(ctx, b, text, c); refusal != none {
				b.refused = append(b.refused, refusedLine{b.splitter.Number(), refusal})
			}
			if len(b.beats)+len(b.refused) == group {
				s.applyGroup(b)
			}
		case wire.CutMore:
			s.applyGroup(b)   // its heartbeats point into the window
			runtime.Gosched() // a window is much work for one turn on a processor; the log's commits wait for one
			if err := b.splitter.Fill(&b.body); err != nil {
				return b.body.refusal(err)
			}
		case wire.CutEnd:
			s.applyGroup(b)
			return none
		case wire.CutBroken:
			s.applyGroup(b)
			return malformedBatch
		}
	}
}

// judge makes the single route's checks of a line; none: it is the last of b.beats. When the log has refused a line, those
// after it are not looked at: all of them are to be sent again.
func (s *Server) judge(ctx *fasthttp.RequestCtx, b *batch, text []byte, c wire.Cut) reply {
	if _, full := b.applied.Full(); full {
		return unavailable
	}
	if c == wire.CutTooLong {
		return bodyTooLarge
	}
	n := len(b.beats)
	b.beats = b.beats[:n+1]
	hb := &b.beats[n]
	refusal := problemReplies[b.decoder.Decode(text, &hb.Heartbeat)]
	hb.Index = b.splitter.Number()
	if refusal == none && s.overRate(ctx, hb) {
		refusal = rateLimited
	}
	if refusal != none {
		b.beats = b.beats[:n]
	}
	return refusal
}

// applyGroup applies the heartbeats of the group and notes its other lines.
func (s *Server) applyGroup(b *batch) {
	b.applied.Add(b.beats)
	unstored, full := b.applied.Full()
	for _, l := range b.refused {
		if full && l.line > unstored {
			l.refusal = unavailable // found bad before the log was asked: it is judged when it comes again
		}
		s.metrics.heartbeats[l.refusal].Add(1)
		b.refusals++
		if len(b.first) < maxBatchErrors {
			b.first = append(b.first, l)
		}
	}
	b.refused, b.beats = b.refused[:0], b.beats[:0]
}

// outcome is the reply to a heartbeat that was not accepted.
func outcome(result *engine.Result) reply {
	if result.Outcome == engine.Stale {
		return staleSeq
	}
	return unavailable
}

// appendErrors appends the first lines that were rejected, by the engine and before it, in their order.
func (b *batch) appendErrors(dst []byte) []byte {
	w := appender{dst}
	refused, rejections := b.first, b.applied.Rejections()
	for listed := 0; listed < maxBatchErrors && len(refused)+len(rejections) > 0; listed++ {
		if listed > 0 {
			w.text = append(w.text, ',')
		}
		if len(rejections) == 0 || len(refused) > 0 && refused[0].line < rejections[0].Index {
			w.line(refused[0].line, refused[0].refusal, 0)
			refused = refused[1:]
		} else {
			r := &rejections[0]
			w.line(r.Index, outcome(&r.Result), r.LastSeq)
			rejections = rejections[1:]
		}
	}
	return w.text
}

// line appends a rejected line.
func (w *appender) line(line int, r reply, lastSeq uint64) {
	w.text = append(w.text, '{')
	w.member("line", line)
	w.member("status", answers[r].status)
	body := answers[r].body
	w.text = append(w.text, body[1:len(body)-1]...)
	if r == staleSeq {
		w.text = append(w.text, `,"last_seq":`...)
		w.text = strconv.AppendUint(w.text, lastSeq, 10)
	}
	w.text = append(w.text, '}')
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
		line := b.splitter.Number() + 1
		if end == batchTooLong {
			line-- // the one too many was cut off already
		}
		w.member("line", line)
	} else {
		w.text = append(w.text, '{')
	}
	counts := b.applied.Counts()
	rejected := b.refusals + counts.Stale + counts.Unavailable
	w.member("accepted", counts.Accepted)
	w.member("rejected", rejected)
	if rejected > maxBatchErrors {
		w.member("errors_omitted", rejected-maxBatchErrors)
	}
	if line, full := b.applied.Full(); full {
		w.member("unavailable_from", line)
	}
	w.text = append(w.text, `"errors":[`...)
	b.answer = append(b.appendErrors(w.text), `]}`...)
	ctx.Response.SetBody(b.answer)
}

// appender writes members of a JSON object.
type appender struct{ text []byte }

func (w *appender) member(name string, n int) {
	w.text = append(append(append(w.text, '"'), name...), `":`...)
	w.text = append(strconv.AppendInt(w.text, int64(n), 10), ',')
}
