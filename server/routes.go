package server

import (
	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
	"rollcall/wire"
)

// routes is the whole public API. Paths match byte for byte: no redirect, no case folding, and no
// unescaping, since the router is given the path as sent.
func routes(a *answers, one *heartbeats, many *batches, follow *streams) fasthttp.RequestHandler {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandleOPTIONS = false
	r.NotFound = a.always(reply.RouteNotFound)
	r.MethodNotAllowed = a.always(reply.MethodNotAllowed) // the router has set Allow

	r.POST(wire.HeartbeatPath, one.serve)
	r.POST(wire.HeartbeatsPath, many.serve)
	r.GET(wire.StreamPath, follow.serve)

	return func(ctx *fasthttp.RequestCtx) {
		a.origins.allow(ctx)
		if refusal := refused(ctx); refusal != reply.None {
			a.unfit(ctx, refusal)
			return
		}
		if ctx.IsOptions() { // on any path, known or not
			a.answer(ctx, reply.Preflight)
		} else {
			r.Handler(ctx)
		}
		if ctx.Request.IsBodyStream() && ctx.Request.Header.ContentLength() != 0 &&
			!ctx.Hijacked() {
			hangUp(ctx) // it was answered without its body
		}
	}
}

// always is a handler with one answer.
func (a *answers) always(r reply.Reply) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) { a.answer(ctx, r) }
}
