package server

import (
	"mime"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/engine/broadcast"
	"rollcall/server/reply"
	"rollcall/wire"
)

// refusal counts a stream that was not opened for now, on a connection that is no longer
// fasthttp's, and returns the text of the answer. An EventSource is told when to come back in the
// only way that it understands: an answer other than 200 ends it for good.
func (s *streams) refusal(r reply.Reply, c client) []byte {
	s.answers.counters.Answers[r].Add(1)
	s.answers.counters.Streams[r].Add(1)
	retry := time.Second
	if r != reply.NotOwned { // the owner is elsewhere, and there already
		retry = s.presence.Retry()
	}
	if c.eventSource && !s.refuseByStatus {
		return broadcast.AppendEnd(s.answers.endedHead(c.chunked, c.allowed), retry, c.chunked)
	}
	return s.answers.wholeAfter(r, c.allowed, wire.AllowedStreamHeaders, c.exposed, retry)
}

// comeAgain does for an EventSource whose connection is over a limit what refusal does for one
// whose stream is. False: the request is another's.
func (s *streams) comeAgain(ctx *fasthttp.RequestCtx, over reply.Reply) bool {
	if s.refuseByStatus || !acceptsEvents(&ctx.Request.Header) {
		return false
	}
	switch path := ctx.Request.URI().PathOriginal(); {
	case ctx.IsGet() && string(path) == wire.StreamPath:
	case (ctx.IsGet() || ctx.IsPost()) && string(path) == wire.ListStreamPath:
	default:
		return false
	}
	s.answers.counters.Answers[over].Add(1)
	h := &ctx.Response.Header
	h.SetContentType(wire.EventsType)
	h.Set(fasthttp.HeaderCacheControl, "no-cache")
	h.Set("X-Accel-Buffering", "no")
	ctx.Response.SetBody(broadcast.AppendEnd(nil, s.presence.Retry(), false))
	return true
}

// acceptsEvents reports whether a client names the type of streams in its Accept headers, as an
// EventSource has to (RFC 9110, section 12.5.1). A range such as */* is not enough: many clients
// send it that cannot read a stream, and all of them can read a status.
func acceptsEvents(h *fasthttp.RequestHeader) bool {
	for _, list := range h.PeekAll(fasthttp.HeaderAccept) {
		if string(list) == wire.EventsType {
			return true
		}
		for item := range elements(string(list)) {
			kind, parameters, err := mime.ParseMediaType(item)
			if err == nil && kind == wire.EventsType && !unwanted(parameters["q"]) {
				return true
			}
		}
	}
	return false
}

// elements cuts a header's list at the commas that are outside of quotes.
func elements(list string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		quoted, begin := false, 0
		for i := 0; i < len(list); i++ {
			switch {
			case list[i] == '"':
				quoted = !quoted
			case list[i] == '\\' && quoted:
				i++
			case list[i] == ',' && !quoted:
				if !yield(list[begin:i]) {
					return
				}
				begin = i + 1
			}
		}
		yield(list[begin:])
	}
}

// unwanted reports whether a quality is none, in any of its forms: 0, 0., 0.000.
func unwanted(quality string) bool {
	q, err := strconv.ParseFloat(strings.TrimSpace(quality), 64)
	return err == nil && q == 0
}
