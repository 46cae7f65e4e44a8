package server

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/sample"
	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

// The media types, as fasthttp takes them.
var jsonType, ndjsonType = []byte(wire.JSONType), []byte(wire.NDJSONType)

// answers writes the rows of the table of replies, and counts them. Any goroutine may use it.
type answers struct {
	counters   *reply.Counters
	origins    origins
	draining   *atomic.Bool // Close has begun
	retryAfter string       // of a heartbeat over the rate, in seconds
	headBytes  int          // Options.MaxHeaderBytes
	newAfter   string       // of a new device over the rate of new ones, in seconds
	clock      engine.Clock
	logger     *slog.Logger
	logged     sample.Second // when the last refused heartbeat was
	headLogged sample.Second // when the last head that is too large was
	askLogged  sample.Second // when the last query that could not be answered was

	refusedTokens refusedTokens

	// comeAgain answers a request on a connection over a limit if it is an EventSource's.
	comeAgain func(ctx *fasthttp.RequestCtx, over reply.Reply) bool
}

// answer answers with a row of the table.
func (a *answers) answer(ctx *fasthttp.RequestCtx, r reply.Reply) {
	a.counters.Answers[r].Add(1)
	a.fill(ctx, r)
}

// fill is answer without the count.
func (a *answers) fill(ctx *fasthttp.RequestCtx, r reply.Reply) {
	ctx.SetStatusCode(r.Status())
	if a.draining.Load() { // fasthttp says so, too, but not before the idle connections are closed
		ctx.SetConnectionClose()
	}
	body := r.Body()
	if body == nil {
		return
	}
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	ctx.Response.SetBodyRaw(body)
	switch r {
	case reply.Unauthorized:
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, "Bearer")
		a.refusedTokens.note(ctx, r)
	case reply.InvalidToken, reply.TokenExpired, reply.InsufficientScope, reply.TokenUserMismatch:
		a.refusedTokens.note(ctx, r)
	case reply.RateLimited:
		setRetryAfter(ctx, a.retryAfter)
	case reply.TooManyDevices, reply.TooManyDevicesOfUser: // one has to be forgotten first
		setRetryAfter(ctx, "60")
	case reply.TooManyNewDevices:
		setRetryAfter(ctx, a.newAfter)
	case reply.Unavailable, reply.TooManyBatches, reply.TooManyUnpacking, reply.NotOwned,
		reply.TooManyLists, reply.TooManyQueries, reply.PresenceUnavailable:
		setRetryAfter(ctx, "1")
	case reply.TooManyConns, reply.TooManyConnsOfAddress:
		setRetryAfter(ctx, strconv.FormatInt(retrySeconds(apart()), 10))
	case reply.UnknownEncoding, reply.WindowTooLarge:
		ctx.Response.Header.Set(fasthttp.HeaderAcceptEncoding, "gzip, zstd")
	}
}

// answerAfter answers with a row, and when to come back.
func (a *answers) answerAfter(ctx *fasthttp.RequestCtx, r reply.Reply, wait time.Duration) {
	a.answer(ctx, r)
	setRetryAfter(ctx, strconv.FormatInt(retrySeconds(wait), 10))
}

// retrySeconds is the Retry-After of a delay: seconds, rounded up.
func retrySeconds(delay time.Duration) int64 {
	return max(1, int64((delay+time.Second-1)/time.Second))
}

// apart is a delay of up to 10 s that varies, so that clients that are turned away together do not
// come back together.
func apart() time.Duration { return rand.N(10 * time.Second) }

// setRetryAfter says when to come back, to another origin's page, too.
func setRetryAfter(ctx *fasthttp.RequestCtx, seconds string) {
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderRetryAfter, seconds)
	if len(h.Peek(fasthttp.HeaderAccessControlExposeHeaders)) == 0 {
		h.Set(fasthttp.HeaderAccessControlExposeHeaders, fasthttp.HeaderRetryAfter)
	}
}

// stale answers a heartbeat whose seq is not above lastSeq, so that a restarted daemon can go on
// from lastSeq+1.
func (a *answers) stale(ctx *fasthttp.RequestCtx, lastSeq uint64) {
	a.answer(ctx, reply.StaleSeq)
	var scratch [128]byte
	body := append(scratch[:0], reply.StaleSeq.Body()...)
	body = append(body[:len(body)-1], `,"last_seq":`...)
	body = append(strconv.AppendUint(body, lastSeq, 10), '}')
	ctx.Response.SetBody(body)
}

// unavailable answers a heartbeat that the engine could not take. The reason goes to the log and to
// /readyz, not to the daemon.
func (a *answers) unavailable(ctx *fasthttp.RequestCtx, why error) {
	r := unavailability(why)
	a.answer(ctx, r)
	if r == reply.Unavailable {
		a.logRefusal(why)
	}
}

// unavailability is the reply to a heartbeat that the engine refused.
func unavailability(why error) reply.Reply {
	switch {
	case errors.Is(why, engine.ErrNotMine):
		return reply.NotOwned
	case errors.Is(why, engine.ErrTooManyDevices):
		return reply.TooManyDevices
	case errors.Is(why, engine.ErrTooManyDevicesOfUser):
		return reply.TooManyDevicesOfUser
	case errors.Is(why, engine.ErrTooManyNew):
		return reply.TooManyNewDevices
	}
	return reply.Unavailable
}

// logRefusal tells the operator, once a second at most.
func (a *answers) logRefusal(why error) {
	if a.logged.Take() {
		a.logger.Warn("heartbeats are refused", "error", why)
	}
}

// unreadable answers a request that fasthttp could not read, and closes the connection. It is
// fasthttp's ErrorHandler. A connection that has not sent a byte is closed without a word: a
// browser opens such ahead, and takes what comes on it for the answer to the request that it sends
// next.
func (a *answers) unreadable(ctx *fasthttp.RequestCtx, err error) {
	if conns.Silent(ctx.Conn()) {
		_ = ctx.Conn().Close()
		return
	}
	a.origins.allow(ctx)
	r := conns.Refused(ctx.Conn())
	if r == reply.None {
		r = readError(err)
	}
	a.unfit(ctx, r)
}

// unfit answers a request whose head is not taken, and closes the connection: where the request
// ends, and the next one begins, is not sure.
func (a *answers) unfit(ctx *fasthttp.RequestCtx, r reply.Reply) {
	a.answer(ctx, r)
	hangUp(ctx)
	if r.Status() != fasthttp.StatusRequestHeaderFieldsTooLarge || !a.headLogged.Take() {
		return
	}
	why, limit := ErrHeadTooLarge, a.headBytes
	if r == reply.TooManyHeaderLines {
		why, limit = errTooManyHeaderLines, maxHeaderLines
	}
	a.logger.Warn("requests are refused", "error", why, "limit", limit,
		"address", a.refusedTokens.clients.addr(ctx))
}

// readError is the reply to a request that could not be read to its end.
func readError(err error) reply.Reply {
	var timeout interface{ Timeout() bool }
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return reply.RequestTimeout
	case errors.As(err, &small):
		return reply.HeaderTooLarge
	}
	return reply.MalformedRequest
}

// hangUp closes the connection behind the answer, but so that a client that is still sending can
// read it.
func hangUp(ctx *fasthttp.RequestCtx) {
	ctx.SetConnectionClose()
	conns.Linger(ctx.Conn())
}

// overLimit counts the refusal of a connection over a limit and returns the text of the answer. The
// client's origin is not known yet.
func (a *answers) overLimit(r reply.Reply) []byte {
	a.counters.Answers[r].Add(1)
	return a.wholeAfter(r, a.origins.allowed(nil), wire.AllowedHeaders,
		fasthttp.HeaderRetryAfter, apart())
}

// wholeAfter is the full text of an error, for connections that are not, or no longer, fasthttp's.
// allowed and headers are as in origins.append, exposed is what pages may read. Retry-After is the
// delay in seconds, rounded up. It should vary, so that clients that are turned away together do
// not come back together.
func (a *answers) wholeAfter(r reply.Reply, allowed, headers, exposed string,
	delay time.Duration) []byte {
	body := r.Body()
	text := make([]byte, 0, 512)
	text = append(text, "HTTP/1.1 "...)
	text = strconv.AppendInt(text, int64(r.Status()), 10)
	text = append(text, ' ')
	text = append(text, fasthttp.StatusMessage(r.Status())...)
	text = append(text, "\r\nContent-Type: "+wire.JSONType+"\r\nContent-Length: "...)
	text = strconv.AppendInt(text, int64(len(body)), 10)
	text = append(text, "\r\nRetry-After: "...)
	text = strconv.AppendInt(text, retrySeconds(delay), 10)
	text = append(text, "\r\nAccess-Control-Expose-Headers: "...)
	text = append(append(text, exposed...), "\r\n"...)
	return append(a.endHead(text, allowed, headers), body...)
}

// streamHead is the head of a stream's response, and where in it the stream's id is to stand; a
// stream that ends at once has none. An HTTP/1.0 client cannot read chunks: its body ends with the
// connection.
func (a *answers) streamHead(chunked bool, allowed string) (head []byte, idAt int) {
	head = a.beginStream(chunked, 512)
	head = append(head, "Access-Control-Expose-Headers: "+wire.ExposedStreamHeaders+"\r\n"+
		wire.StreamHeader+": "...)
	idAt = len(head)
	head = append(head[:idAt+broadcast.StreamIDLen], "\r\n"...)
	return a.endHead(head, allowed, wire.AllowedStreamHeaders), idAt
}

// endedHead is the head of a stream that ends at once.
func (a *answers) endedHead(chunked bool, allowed string) []byte {
	return a.endHead(a.beginStream(chunked, 384), allowed, wire.AllowedStreamHeaders)
}

func (a *answers) beginStream(chunked bool, room int) []byte {
	head := make([]byte, 0, room)
	head = append(head, "HTTP/1.1 200 OK\r\n"...)
	if chunked {
		head = append(head, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(head, "Content-Type: "+wire.EventsType+"\r\n"+
		"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"...)
}

// endHead appends the headers that every head of ours ends with, and the blank line.
func (a *answers) endHead(head []byte, allowed, headers string) []byte {
	head = append(head, "Date: "...)
	head = fasthttp.AppendHTTPDate(head, a.clock.Wall())
	head = a.origins.append(append(head, "\r\n"...), allowed, headers)
	return append(head, "Connection: close\r\n\r\n"...)
}
