package server

import (
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

// streams answers GET wire.StreamPath, and takes the connections of all streams over. Any goroutine
// may use it.
type streams struct {
	presence interface {
		Take(c net.Conn) (broadcast.Conn, error)
		Subscribe(s broadcast.Subscription) error
		Retry() time.Duration
	}
	secrets        *secrets
	answers        *answers
	clients        *clients
	clock          engine.Clock
	queryToken     bool // Options.StreamQueryToken
	expiryIgnore   bool // Options.TokenExpiryIgnore
	refuseByStatus bool // Options.StreamRefusalStatus
	logger         *slog.Logger
}

// client is what an answer on the taken-over connection has to know of the request.
type client struct {
	addr        netip.Addr // zero: none, as over a Unix socket
	chunked     bool
	eventSource bool   // see acceptsEvents
	allowed     string // what origins.allowed said
	exposed     string // what pages may read of a refusal
}

// serve checks the request and takes the connection over.
func (s *streams) serve(ctx *fasthttp.RequestCtx) {
	now := s.clock()
	user, until, refusal := s.check(ctx, now)
	if refusal != reply.None {
		s.refuse(ctx, refusal)
		return
	}
	s.hijack(ctx, broadcast.Subscription{User: user, ExpiresNanos: s.expiresNanos(until, now)})
}

// hijack has the connection taken over for a stream of which sub says all but what the connection
// says. Nothing in sub points into the request (S1).
func (s *streams) hijack(ctx *fasthttp.RequestCtx, sub broadcast.Subscription) {
	from := client{
		addr:        s.clients.addr(ctx),
		chunked:     ctx.Request.Header.IsHTTP11(),
		eventSource: acceptsEvents(&ctx.Request.Header),
		allowed:     s.answers.origins.allowed(origin(ctx)),
		exposed:     fasthttp.HeaderRetryAfter,
	}
	if sub.List != nil {
		from.exposed = wire.ExposedStreamHeaders
	}
	ctx.HijackSetNoResponse(true) // ours is streamHead; fasthttp's would say Content-Length: 0
	ctx.Hijack(func(c net.Conn) { s.takeOver(c, sub, from) })
}

// admit answers a request that is refused.
func (s *streams) admit(ctx *fasthttp.RequestCtx) {
	if _, _, refusal := s.check(ctx, s.clock()); refusal != reply.None {
		s.refuse(ctx, refusal)
	}
}

// refuse answers a stream that the engine does not get to see.
func (s *streams) refuse(ctx *fasthttp.RequestCtx, refusal reply.Reply) {
	s.answers.counters.Streams[refusal].Add(1)
	s.answers.answer(ctx, refusal)
}

// check makes the checks of a stream in the order of the wire contract. until is when the token
// ends, in unix milliseconds.
func (s *streams) check(ctx *fasthttp.RequestCtx, now engine.Instant) (
	user uuid.UUID, until float64, refusal reply.Reply) {
	text := wire.TrimSpace(ctx.QueryArgs().Peek(wire.UserParam))
	if len(text) == 0 {
		return user, 0, reply.MissingUserID
	}
	user, form := wire.ParseID(text)
	if form == wire.IDInvalid {
		return user, 0, reply.InvalidUserID
	}
	keys := s.secrets.signing()
	if len(keys) == 0 {
		return user, 0, reply.SigningNotConfigured
	}
	bearer, ok := s.token(ctx)
	if !ok {
		return user, 0, reply.Unauthorized
	}
	id := string(wire.AppendID(nil, user))
	until, err := keys.Verify(bearer, wire.ScopeRead, id, time.UnixMilli(int64(now.WallMS)))
	if err == nil {
		conns.Prove(ctx.Conn())
	}
	return user, until, tokenReply(err)
}

// tokenReply is the reply to a token that was verified.
func tokenReply(err error) reply.Reply {
	switch err {
	case nil:
		return reply.None
	case token.ErrExpired:
		return reply.TokenExpired
	case token.ErrScope:
		return reply.InsufficientScope
	case token.ErrUser:
		return reply.TokenUserMismatch
	}
	return reply.InvalidToken
}

// token returns the token of the Authorization header, or that of the query where it is allowed and
// there is no such header. Two in the query are none, as two headers are.
func (s *streams) token(ctx *fasthttp.RequestCtx) (text []byte, ok bool) {
	if !s.queryToken || len(ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)) > 0 {
		return bearer(&ctx.Request.Header)
	}
	tokens := ctx.QueryArgs().PeekMulti(wire.TokenParam)
	if len(tokens) != 1 {
		return nil, false
	}
	return tokens[0], len(tokens[0]) > 0
}

// expiresNanos is the instant of the clock at which a token ends that ends at untilMS of the wall
// clock. It saturates.
func (s *streams) expiresNanos(untilMS float64, now engine.Instant) int64 {
	if s.expiryIgnore {
		return 0 // never
	}
	left := (untilMS - float64(now.WallMS)) * 1e6
	if left >= float64(math.MaxInt64-now.Nanos) {
		return math.MaxInt64
	}
	return now.Nanos + int64(left)
}

// takeOver gives the connection to the broadcaster, or answers why not. It runs on a goroutine of
// its own, outside fasthttp's accounting, and is the first to know that the connection is still
// there: so the engine is asked here and not in the handler whether it takes one more.
func (s *streams) takeOver(c net.Conn, sub broadcast.Subscription, from client) {
	raw, place, ok := conns.Release(c, from.addr)
	if !ok {
		s.turnAway(raw, reply.TooManyConnsOfAddress, from)
		return
	}
	conn, err := s.presence.Take(raw)
	if err != nil {
		defer place.Leave()
		s.logger.Warn("a stream's connection could not be taken over", "error", err,
			"address", from.addr)
		s.turnAway(raw, reply.StreamUnavailable, from)
		return
	}
	if place.Counted() {
		conn = counted{conn, place}
	}
	sub.Conn, sub.Chunked = conn, from.chunked
	sub.Head, sub.IDAt = s.answers.streamHead(from.chunked, from.allowed)
	if err = s.presence.Subscribe(sub); err != nil {
		// The answer fits into the empty buffer of a socket, so a single try is enough.
		_, _ = conn.Write(s.refusal(subscribeReply(err), from))
		_ = conn.CloseWrite()
		_ = conn.Close()
		return
	}
	s.answers.counters.Answers[reply.Streaming].Add(1)
}

// turnAway answers on a connection that the broadcaster does not have, and closes it.
func (s *streams) turnAway(raw net.Conn, why reply.Reply, from client) {
	_ = raw.SetWriteDeadline(time.Now().Add(conns.AnswerTimeout))
	_, _ = raw.Write(s.refusal(why, from))
	_ = raw.Close()
}

// counted is a stream's connection that counts for its address. Its Close is called once, whatever
// becomes of the stream.
type counted struct {
	broadcast.Conn
	place conns.Place
}

func (c counted) Close() error {
	defer c.place.Leave()
	return c.Conn.Close()
}

// subscribeReply is the reply to a stream that the engine did not take.
func subscribeReply(why error) reply.Reply {
	switch {
	case errors.Is(why, broadcast.ErrDraining):
		return reply.Draining
	case errors.Is(why, broadcast.ErrTooMany):
		return reply.TooManyStreams
	case errors.Is(why, broadcast.ErrTooManyOfUser):
		return reply.TooManyStreamsOfUser
	case errors.Is(why, broadcast.ErrTooManyFollows):
		return reply.TooManyFollows
	case errors.Is(why, broadcast.ErrTooManyFollowsOfOwner):
		return reply.TooManyFollowsOfToken
	case errors.Is(why, engine.ErrNotMine):
		return reply.NotOwned
	}
	return reply.StreamUnavailable
}
