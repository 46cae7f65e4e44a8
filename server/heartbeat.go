package server

import (
	"io"
	"net/netip"
	"slices"
	"sync"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

// heartbeats answers POST wire.HeartbeatPath. Any goroutine may use it.
type heartbeats struct {
	presence interface {
		Heartbeat(hb *engine.Heartbeat) engine.Result
		Stale(hb *engine.Heartbeat) bool
	}
	secrets *secrets
	answers *answers
	clients *clients
	rate    *conns.Rate // of each address; nil: no limit
	unpacks *conns.Rate // bytes of each address; nil: no limit
	ttls    *ttls

	arrivals *arrivals // of new devices; nil: no limit
}

// request is what one heartbeat needs; pooled, so that the handler does not allocate (S5).
type request struct {
	body    []byte // changed by decoder; hb.Source points into it (S1)
	packed  []byte // what body was unpacked from
	sent    sentBody
	decoder wire.Decoder
	hb      engine.Heartbeat
	sender  sender // hb's
}

var requests = sync.Pool{New: func() any { return &request{body: make([]byte, 0, 1024)} }}

// check makes the checks that come before the body: token, size.
func (h *heartbeats) check(ctx *fasthttp.RequestCtx) reply.Reply {
	refusal := h.secrets.checkIngest(ctx)
	if refusal == reply.None && ctx.Request.Header.ContentLength() > wire.MaxBodyBytes {
		return reply.BodyTooLarge
	}
	return refusal
}

// admit answers a heartbeat that would be refused whatever its body is.
func (h *heartbeats) admit(ctx *fasthttp.RequestCtx) {
	if refusal := h.check(ctx); refusal != reply.None {
		h.refuse(ctx, refusal)
	}
}

func (h *heartbeats) serve(ctx *fasthttp.RequestCtx) {
	if refusal := h.check(ctx); refusal != reply.None {
		h.refuse(ctx, refusal)
		return
	}
	c := codingOf(&ctx.Request.Header)
	bucket := h.unpackBucket(ctx, c)
	if debt := bucket.Debt(); debt > 0 {
		h.answers.counters.Heartbeats[reply.UnpackRateLimited].Add(1)
		h.answers.answerAfter(ctx, reply.UnpackRateLimited, debt)
		return
	}
	r := requests.Get().(*request)
	refusal := r.read(ctx, c, bucket)
	if refusal == reply.None {
		refusal = h.decode(&r.decoder, r.body, &r.hb)
	}
	if refusal == reply.InvalidJSON && c == unknownCoding {
		refusal = reply.UnknownEncoding // one that is not packed is taken, as it always was
	}
	if refusal == reply.None {
		r.hb.Sender = h.arrivals.of(ctx, &r.sender)
		h.apply(ctx, &r.hb)
	} else {
		h.refuse(ctx, refusal)
	}
	r.sent, r.sender = sentBody{}, sender{}
	if cap(r.body) <= 2*wire.MaxBodyBytes { // else of a body that is too large
		requests.Put(r)
	}
}

// unpackBucket is what counts the unpacked bytes of a request's address. A body that is not packed
// is not counted: its sender sent every byte of it.
func (h *heartbeats) unpackBucket(ctx *fasthttp.RequestCtx, c coding) (b conns.Bucket) {
	if h.unpacks == nil || c != gzipCoding && c != zstdCoding {
		return b
	}
	return h.unpacks.Bucket(h.clients.addr(ctx))
}

// decode reads a heartbeat and checks its fields.
func (h *heartbeats) decode(d *wire.Decoder, text []byte, hb *engine.Heartbeat) reply.Reply {
	if refusal := reply.OfProblem(d.Decode(text, &hb.Heartbeat)); refusal != reply.None {
		return refusal
	}
	return h.ttls.check(hb)
}

// refuse answers a heartbeat that the engine does not get to see.
func (h *heartbeats) refuse(ctx *fasthttp.RequestCtx, refusal reply.Reply) {
	h.answers.counters.Heartbeats[refusal].Add(1)
	h.answers.answer(ctx, refusal)
}

// read reads the request's body and unpacks it.
func (r *request) read(ctx *fasthttp.RequestCtx, c coding, bucket conns.Bucket) reply.Reply {
	if c != gzipCoding && c != zstdCoding {
		return r.readSent(ctx, &r.body)
	}
	if refusal := r.readSent(ctx, &r.packed); refusal != reply.None {
		return refusal
	}
	body, err := c.appendUnpacked(r.body[:0], r.packed, wire.MaxBodyBytes)
	bucket.Spend(len(body))
	r.body = body
	if err != nil {
		return unpackError(err, reply.BodyTooLarge)
	}
	return reply.None
}

// readSent reads the request's body as it was sent, which fasthttp has begun to read at most. A
// body that it read to the end it takes off the request, so that the connection can be used again.
func (r *request) readSent(ctx *fasthttp.RequestCtx, to *[]byte) reply.Reply {
	body := (*to)[:0]
	defer func() { *to = body }()
	r.sent = newSentBody(ctx)
	for len(body) <= wire.MaxBodyBytes {
		body = slices.Grow(body, 512)
		n, err := r.sent.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF && len(body) <= wire.MaxBodyBytes {
			_ = ctx.Request.CloseBodyStream()
			return reply.None
		}
		if err != nil && err != io.EOF {
			return readError(err)
		}
	}
	return reply.BodyTooLarge
}

// apply hands a valid heartbeat to the engine and answers with what came of it.
func (h *heartbeats) apply(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) {
	if h.rate != nil && h.overRate(h.clients.addr(ctx), hb) {
		h.refuse(ctx, reply.RateLimited)
		return
	}
	switch result := h.presence.Heartbeat(hb); result.Outcome {
	case engine.Accepted:
		h.answers.answer(ctx, reply.Accepted)
		conns.Plain(ctx.Conn())
	case engine.Stale:
		h.answers.stale(ctx, result.LastSeq)
	default:
		h.answers.unavailable(ctx, result.Err)
	}
}

// overRate counts a valid heartbeat, where there is a rate, and reports whether it is too many of
// its address. A stale one is answered as such even over the rate, and does not count.
func (h *heartbeats) overRate(client netip.Addr, hb *engine.Heartbeat) bool {
	return !h.presence.Stale(hb) && !h.rate.Allow(client)
}
