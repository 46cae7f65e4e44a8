package server

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/server/reply"
	"rollcall/wire"
)

// maxBatchErrors is how many rejected lines an answer lists.
const maxBatchErrors = engine.MaxRejections

// yieldLines is how many lines, some 100 us of work, a batch works off before it goes to the end of
// the scheduler's queue: a single heartbeat needs several turns of it, and a batch is many times
// its work. A batch that yielded after each group spent a tenth of its processor time on that.
const yieldLines = 4 * engine.GroupSize

// batches answers POST wire.HeartbeatsPath. Any goroutine may use it.
type batches struct {
	presence interface{ NewBatch() engine.Batch }
	single   *heartbeats // whose checks each line has to pass
	maxLines int         // Options.MaxBatch
	places   *places
}

// batch is what one request of many heartbeats needs; pooled, so that a heartbeat allocates nothing
// (S5). Its size does not depend on the request's.
//
//	batchBody ► splitter ► decoder ► group of heartbeats ► Add ► ... ► Settle ► answer
//	└── with a place ───────────────────────────────────────────┘
type batch struct {
	*reading // nil once all is applied
	applied  engine.Batch
	sender   sender // of all heartbeats; applied may ask it until it is settled

	lines    int           // that were cut off the body
	refusals int           // lines that the engine did not see, of the groups that were applied
	first    []refusedLine // of these, as many as an answer lists
	answer   []byte        // scratch
}

// reading is what a batch needs while its body is read, and what makes it large: a window of the
// body and a group of heartbeats.
type reading struct {
	place    place
	body     batchBody
	splitter *wire.Splitter
	decoder  wire.Decoder

	// The group that is not applied yet: its valid lines and the others, each in order.
	beats   []engine.Heartbeat // their Index is their line
	refused []refusedLine

	wait, goOn func() // around a wait for room in the log: no turn is held
}

// refusedLine is a line that the engine does not see.
type refusedLine struct {
	line    int
	refusal reply.Reply
}

var batchPool = sync.Pool{New: func() any { return new(batch) }}

var readings = &stock[reading]{most: 128, make: func() *reading {
	r := &reading{
		splitter: wire.NewSplitter(),
		beats:    make([]engine.Heartbeat, 0, engine.GroupSize),
		refused:  make([]refusedLine, 0, engine.GroupSize),
	}
	r.wait, r.goOn = r.place.endTurn, r.place.takeTurn
	return r
}}

// release puts b back with nothing of the request.
func (b *batch) release() {
	b.applied.Release()
	*b = batch{first: b.first[:0], answer: b.answer[:0]}
	batchPool.Put(b)
}

// admit answers a batch that would be refused whatever its body is.
func (m *batches) admit(ctx *fasthttp.RequestCtx) {
	if _, _, refusal := m.checkHead(ctx); refusal != reply.None {
		m.single.refuse(ctx, refusal)
	}
}

// close gives the place back, and r with nothing of the request but the shape of its texts. It
// reports whether the body was cut.
func (r *reading) close() (cut bool) {
	r.body.close()
	cut = r.place.leave()
	r.beats, r.refused = r.beats[:0], r.refused[:0]
	readings.put(r)
	return cut
}

func (m *batches) serve(ctx *fasthttp.RequestCtx) {
	array, coding, refusal := m.checkHead(ctx)
	if refusal != reply.None {
		m.single.refuse(ctx, refusal)
		return
	}
	answers := m.single.answers
	bucket := m.single.unpackBucket(ctx, coding)
	if debt := bucket.Debt(); debt > 0 {
		answers.answerAfter(ctx, reply.UnpackRateLimited, debt)
		return
	}
	b := batchPool.Get().(*batch)
	b.reading = readings.get()
	b.applied = m.presence.NewBatch()
	defer b.release()
	if !m.places.take(&b.place, ctx.Conn()) {
		readings.put(b.reading)
		answers.answer(ctx, reply.TooManyBatches)
		return
	}
	b.body.bucket = bucket
	end, whole := m.read(ctx, b, array, coding)
	if err := b.applied.Settle(); err != nil {
		answers.unavailable(ctx, err)
		return
	}
	if why := b.applied.Counts().Err; why != nil && unavailability(why) == reply.Unavailable {
		answers.logRefusal(why)
	}
	if whole {
		_ = ctx.Request.CloseBodyStream() // so that the connection can be used again
	}
	answers.batch(ctx, b, end)
}

// read reads the body and applies its lines. It returns why it ended before the body did, or None,
// and whether the body was read to its end. The place is free then.
func (m *batches) read(ctx *fasthttp.RequestCtx, b *batch, array bool, c coding) (
	end reply.Reply, whole bool) {
	b.splitter.Reset(array)
	b.applied.AroundWaits(b.wait, b.goOn)
	if err := b.body.open(ctx, c, &b.place); err != nil {
		end = b.body.refusal(err)
	} else {
		end = m.applyLines(ctx, b)
	}
	b.lines, whole = b.splitter.Number(), b.body.whole()
	if cut := b.reading.close(); cut {
		ctx.SetConnectionClose()
	}
	b.reading = nil
	return end, whole
}

// checkHead makes the checks that come before the body: token, type, coding, size.
func (m *batches) checkHead(ctx *fasthttp.RequestCtx) (
	array bool, c coding, refusal reply.Reply) {
	if refusal = m.single.secrets.checkIngest(ctx); refusal != reply.None {
		return false, c, refusal
	}
	media, _, _ := bytes.Cut(ctx.Request.Header.ContentType(), []byte(";"))
	switch media = bytes.TrimSpace(media); {
	case bytes.EqualFold(media, jsonType):
		array = true
	case len(media) > 0 && !bytes.EqualFold(media, ndjsonType):
		return false, c, reply.UnknownBatchType
	}
	if c = codingOf(&ctx.Request.Header); c == unknownCoding {
		return false, c, reply.UnknownEncoding
	}
	if ctx.Request.Header.ContentLength() > wire.MaxBatchBytes {
		return false, c, reply.BatchTooLarge
	}
	return array, c, reply.None
}

// applyLines checks and applies the lines as they arrive. It returns why it ended before the body
// did, or None; what it had read until then is applied in either case. When it has to wait for more
// of the body it applies what it has.
func (m *batches) applyLines(ctx *fasthttp.RequestCtx, b *batch) reply.Reply {
	group := engine.GroupSize
	if m.single.rate != nil {
		// The limit asks of each line whether it is stale, so all before it must be applied.
		group = 1
	}
	worked := 0 // lines since the last yield
	for {
		text, c := b.splitter.Next()
		switch c {
		case wire.CutText, wire.CutTooLong, wire.CutBlank:
			if b.splitter.Number() > m.maxLines { // blank lines are work, too
				m.applyGroup(b)
				return reply.BatchTooLong
			}
			if c == wire.CutBlank {
				continue
			}
			if refusal := m.checkLine(ctx, b, text, c); refusal != reply.None {
				b.refused = append(b.refused, refusedLine{b.splitter.Number(), refusal})
			}
			if len(b.beats)+len(b.refused) == group {
				m.applyGroup(b)
				if worked += group; worked >= yieldLines {
					worked = 0
					runtime.Gosched()
				}
			}
		case wire.CutMore:
			m.applyGroup(b) // its heartbeats point into the window
			if err := b.fill(); err != nil {
				return b.body.refusal(err)
			}
		case wire.CutEnd:
			m.applyGroup(b)
			return reply.None
		case wire.CutBroken:
			m.applyGroup(b)
			return reply.MalformedBatch
		}
	}
}

// fill reads the next window. It gives the turn to the batch that waits for it longest, and takes
// another one to unpack, or else when the bytes are there.
func (r *reading) fill() error {
	r.place.endTurn()
	if r.body.packed != nil {
		r.place.takeTurn()
	}
	if err := r.splitter.Fill(&r.body); err != nil {
		return err
	}
	r.place.takeTurn()
	return nil
}

// checkLine makes the single route's checks of a line; None: it is the last of b.beats. When the
// log has refused a line, those after it are not looked at: all of them are to be sent again.
func (m *batches) checkLine(
	ctx *fasthttp.RequestCtx, b *batch, text []byte, c wire.Cut) reply.Reply {
	if _, full := b.applied.Full(); full {
		return reply.Unavailable
	}
	if c == wire.CutTooLong {
		return reply.BodyTooLarge
	}
	n := len(b.beats)
	b.beats = b.beats[:n+1]
	hb := &b.beats[n]
	refusal := m.single.decode(&b.decoder, text, hb)
	hb.Index = b.splitter.Number()
	hb.Sender = m.single.arrivals.of(ctx, &b.sender)
	if refusal == reply.None && m.single.rate != nil &&
		m.single.overRate(m.single.clients.addr(ctx), hb) {
		refusal = reply.RateLimited
	}
	if refusal != reply.None {
		b.beats = b.beats[:n]
	}
	return refusal
}

// applyGroup applies the heartbeats of the group and notes its other lines.
func (m *batches) applyGroup(b *batch) {
	b.applied.Add(b.beats)
	unstored, full := b.applied.Full()
	for _, l := range b.refused {
		if full && l.line > unstored {
			// It was found bad before the log was asked: it is checked when it comes again.
			l.refusal = reply.Unavailable
		}
		m.single.answers.counters.Heartbeats[l.refusal].Add(1)
		b.refusals++
		if len(b.first) < maxBatchErrors {
			b.first = append(b.first, l)
		}
	}
	b.refused, b.beats = b.refused[:0], b.beats[:0]
}

// batch answers what became of the lines, and with end why there was no more to read.
func (a *answers) batch(ctx *fasthttp.RequestCtx, b *batch, end reply.Reply) {
	row := end
	if end == reply.None {
		row = reply.BatchDone
	}
	a.answer(ctx, row)
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	b.answer = b.appendAnswer(b.answer[:0], end)
	ctx.Response.SetBody(b.answer)
}

// appendAnswer appends the body of the answer.
func (b *batch) appendAnswer(dst []byte, end reply.Reply) []byte {
	w := members{dst}
	if end != reply.None {
		body := end.Body()
		w.text = append(append(w.text, body[:len(body)-1]...), ',')
		line := b.lines + 1
		if end == reply.BatchTooLong {
			line-- // the one too many was cut off already
		}
		w.add("line", line)
	} else {
		w.text = append(w.text, '{')
	}
	counts := b.applied.Counts()
	rejected := b.refusals + counts.Stale + counts.Unavailable
	w.add("accepted", counts.Accepted)
	w.add("rejected", rejected)
	if rejected > maxBatchErrors {
		w.add("errors_omitted", rejected-maxBatchErrors)
	}
	if line, full := b.applied.Full(); full {
		w.add("unavailable_from", line)
	}
	w.text = append(w.text, `"errors":[`...)
	b.addErrors(&w)
	return append(w.text, `]}`...)
}

// addErrors adds the first lines that were rejected, by the engine and before it, in their order.
func (b *batch) addErrors(w *members) {
	refused, rejections := b.first, b.applied.Rejections()
	for listed := 0; listed < maxBatchErrors && len(refused)+len(rejections) > 0; listed++ {
		if listed > 0 {
			w.text = append(w.text, ',')
		}
		if len(rejections) == 0 || len(refused) > 0 && refused[0].line < rejections[0].Index {
			w.addLine(refused[0].line, refused[0].refusal, 0)
			refused = refused[1:]
		} else {
			r := &rejections[0]
			w.addLine(r.Index, rejection(&r.Result), r.LastSeq)
			rejections = rejections[1:]
		}
	}
}

// rejection is the reply to a line that the engine did not accept.
func rejection(result *engine.Result) reply.Reply {
	if result.Outcome == engine.Stale {
		return reply.StaleSeq
	}
	return unavailability(result.Err)
}

// members writes the members of a JSON object.
type members struct{ text []byte }

func (m *members) add(name string, n int) {
	m.text = append(append(append(m.text, '"'), name...), `":`...)
	m.text = append(strconv.AppendInt(m.text, int64(n), 10), ',')
}

// addLine adds a rejected line, which is an object of its own.
func (m *members) addLine(line int, r reply.Reply, lastSeq uint64) {
	m.text = append(m.text, '{')
	m.add("line", line)
	m.add("status", r.Status())
	body := r.Body()
	m.text = append(m.text, body[1:len(body)-1]...)
	if r == reply.StaleSeq {
		m.text = append(m.text, `,"last_seq":`...)
		m.text = strconv.AppendUint(m.text, lastSeq, 10)
	}
	m.text = append(m.text, '}')
}
