package server

import (
	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"rollcall/wire"
)

// routes is the whole public API. Paths match byte for byte: no redirect, no case folding, and no unescaping, since the
// router is given the path as sent.
func (s *Server) routes() fasthttp.RequestHandler {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandleOPTIONS = false
	r.NotFound = s.replier(routeNotFound)
	r.MethodNotAllowed = s.replier(methodNotAllowed) // the router has set Allow

	r.POST(wire.HeartbeatPath, s.heartbeat)
	r.POST(wire.HeartbeatsPath, s.heartbeats)
	r.GET(wire.StreamPath, s.stream)

	return func(ctx *fasthttp.RequestCtx) {
		s.allow(ctx)
		if ctx.IsOptions() { // on any path, known or not
			s.answer(ctx, preflight)
		} else {
			r.Handler(ctx)
		}
		if ctx.Request.IsBodyStream() && ctx.Request.Header.ContentLength() != 0 && !ctx.Hijacked() {
			hangUp(ctx) // it was answered without its body
		}
	}
}

// replier is a handler that always answers r.
func (s *Server) replier(r reply) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) { s.answer(ctx, r) }
}
