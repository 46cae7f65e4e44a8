package server

import (
	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

// routes is the whole public API: serve answers a request, expect one whose client waits for
// 100 Continue before it sends its body. Paths match byte for byte: no redirect, no case folding,
// and no unescaping, since the router is given the path as sent.
func routes(a *answers, one *heartbeats, many *batches, follow *streams, ask *queries,
	lists *listStreams) (
	serve fasthttp.RequestHandler, expect func(*fasthttp.RequestCtx) (status int)) {
	a.comeAgain = follow.comeAgain
	answer := a.route(handlers{
		heartbeat: one.serve, heartbeats: many.serve, stream: follow.serve,
		presence: ask.get, query: ask.post,
		ownList: lists.get, list: lists.post, renew: lists.renew,
	})
	serve = func(ctx *fasthttp.RequestCtx) {
		answer(ctx)
		if ctx.Request.IsBodyStream() && ctx.Request.Header.ContentLength() != 0 &&
			!ctx.Hijacked() {
			hangUp(ctx) // it was answered without its body
		}
	}
	// The checks that need no body. When they find nothing, they leave the answer as it is: 200.
	checks := a.route(handlers{
		heartbeat: one.admit, heartbeats: many.admit, stream: follow.admit,
		presence: ask.admit, query: ask.admit,
		ownList: lists.admit, list: lists.admit, renew: lists.renew,
	})
	expect = func(ctx *fasthttp.RequestCtx) int {
		if checks(ctx); ctx.Response.StatusCode() == fasthttp.StatusOK {
			return fasthttp.StatusContinue
		}
		hangUp(ctx) // the client may be tired of waiting, and send its body
		return ctx.Response.StatusCode()
	}
	return serve, expect
}

// handlers has one for each route.
type handlers struct {
	heartbeat, heartbeats, stream fasthttp.RequestHandler
	presence, query               fasthttp.RequestHandler
	ownList, list, renew          fasthttp.RequestHandler
}

// route has a handler for each path, and answers what is for none of them.
func (a *answers) route(to handlers) fasthttp.RequestHandler {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandleOPTIONS = false
	r.NotFound = a.always(reply.RouteNotFound)
	r.MethodNotAllowed = a.always(reply.MethodNotAllowed) // the router has set Allow

	r.POST(wire.HeartbeatPath, to.heartbeat)
	r.POST(wire.HeartbeatsPath, to.heartbeats)
	r.GET(wire.StreamPath, to.stream)
	r.GET(wire.PresencePath, to.presence)
	r.POST(wire.QueryPath, to.query)
	r.GET(wire.ListStreamPath, to.ownList)
	r.POST(wire.ListStreamPath, to.list)
	r.POST(wire.RenewPath, to.renew)

	return func(ctx *fasthttp.RequestCtx) {
		a.origins.allow(ctx)
		if over := conns.Refused(ctx.Conn()); over != reply.None {
			if !a.comeAgain(ctx, over) {
				a.answer(ctx, over)
			}
			hangUp(ctx)
		} else if refusal := refused(ctx); refusal != reply.None {
			a.unfit(ctx, refusal)
		} else if ctx.IsOptions() { // on any path, known or not
			a.answer(ctx, reply.Preflight)
		} else {
			r.Handler(ctx)
		}
	}
}

// always is a handler with one answer.
func (a *answers) always(r reply.Reply) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) { a.answer(ctx, r) }
}
