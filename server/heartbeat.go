package server

import (
	"io"
	"slices"
	"sync"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/wire"
)

// request is what one heartbeat needs; pooled, so that the handler does not allocate (S5).
type request struct {
	body    []byte // read by readBody, changed by decoder; hb.Source points into it (S1)
	decoder wire.Decoder
	hb      engine.Heartbeat
}

var requests = sync.Pool{New: func() any { return &request{body: make([]byte, 0, 1024)} }}

// heartbeat answers POST wire.HeartbeatPath.
func (s *Server) heartbeat(ctx *fasthttp.RequestCtx) {
	if refusal := s.ingest(ctx); refusal != none {
		s.refuseHeartbeat(ctx, refusal)
		return
	}
	r := requests.Get().(*request)
	refusal := r.readBody(ctx)
	if refusal == none {
		refusal = problemReplies[r.decoder.Decode(r.body, &r.hb.Heartbeat)]
	}
	if refusal == none {
		s.apply(ctx, &r.hb)
	} else {
		s.refuseHeartbeat(ctx, refusal)
	}
	requests.Put(r)
}

// refuseHeartbeat answers a heartbeat that the engine does not get to see.
func (s *Server) refuseHeartbeat(ctx *fasthttp.RequestCtx, refusal reply) {
	s.metrics.heartbeats[refusal].Add(1)
	s.answer(ctx, refusal)
}

// readBody reads the request's body, which fasthttp has begun to read at most. A body that it read to the end it takes
// off the request, so that the connection can be used again.
func (r *request) readBody(ctx *fasthttp.RequestCtx) reply {
	r.body = r.body[:0]
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return none // without a body
	}
	if ctx.Request.Header.ContentLength() > wire.MaxBodyBytes {
		return bodyTooLarge
	}
	for len(r.body) <= wire.MaxBodyBytes {
		r.body = slices.Grow(r.body, 512)
		n, err := stream.Read(r.body[len(r.body):cap(r.body)])
		r.body = r.body[:len(r.body)+n]
		if err == io.EOF && len(r.body) <= wire.MaxBodyBytes {
			_ = ctx.Request.CloseBodyStream()
			return none
		}
		if err != nil && err != io.EOF {
			return unreadable(err)
		}
	}
	return bodyTooLarge
}

// apply hands a valid heartbeat to the engine and answers with what came of it.
func (s *Server) apply(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) {
	if s.overRate(ctx, hb) {
		s.refuseHeartbeat(ctx, rateLimited)
		return
	}
	switch result := s.presence.Heartbeat(hb); result.Outcome {
	case engine.Accepted:
		s.answer(ctx, accepted)
	case engine.Stale:
		s.answerStale(ctx, result.LastSeq)
	default:
		s.answerUnavailable(ctx, result.Err)
	}
}

// overRate counts a valid heartbeat and reports whether it is too many of its address. A stale one is told so even over the
// rate, and does not count.
func (s *Server) overRate(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) bool {
	return s.limiter != nil && !s.presence.Stale(hb) && !s.limiter.allow(ctx.RemoteAddr())
}
