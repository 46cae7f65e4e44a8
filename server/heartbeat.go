package server

import (
	"io"
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
}

// request is what one heartbeat needs; pooled, so that the handler does not allocate (S5).
type request struct {
	body    []byte // read by readBody, changed by decoder; hb.Source points into it (S1)
	decoder wire.Decoder
	hb      engine.Heartbeat
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
	r := requests.Get().(*request)
	refusal := r.readBody(ctx)
	if refusal == reply.None {
		refusal = reply.OfProblem(r.decoder.Decode(r.body, &r.hb.Heartbeat))
	}
	if refusal == reply.None {
		h.apply(ctx, &r.hb)
	} else {
		h.refuse(ctx, refusal)
	}
	requests.Put(r)
}

// refuse answers a heartbeat that the engine does not get to see.
func (h *heartbeats) refuse(ctx *fasthttp.RequestCtx, refusal reply.Reply) {
	h.answers.counters.Heartbeats[refusal].Add(1)
	h.answers.answer(ctx, refusal)
}

// readBody reads the request's body, which fasthttp has begun to read at most. A body that it read
// to the end it takes off the request, so that the connection can be used again.
func (r *request) readBody(ctx *fasthttp.RequestCtx) reply.Reply {
	r.body = r.body[:0]
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return reply.None // without a body
	}
	for len(r.body) <= wire.MaxBodyBytes {
		r.body = slices.Grow(r.body, 512)
		n, err := stream.Read(r.body[len(r.body):cap(r.body)])
		r.body = r.body[:len(r.body)+n]
		if err == io.EOF && len(r.body) <= wire.MaxBodyBytes {
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
	if h.overRate(ctx, hb) {
		h.refuse(ctx, reply.RateLimited)
		return
	}
	switch result := h.presence.Heartbeat(hb); result.Outcome {
	case engine.Accepted:
		h.answers.answer(ctx, reply.Accepted)
	case engine.Stale:
		h.answers.stale(ctx, result.LastSeq)
	default:
		h.answers.unavailable(ctx, result.Err)
	}
}

// overRate counts a valid heartbeat and reports whether it is too many of its address. A stale one
// is answered as such even over the rate, and does not count.
func (h *heartbeats) overRate(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) bool {
	return h.rate != nil && !h.presence.Stale(hb) && !h.rate.Allow(h.clients.addr(ctx))
}
