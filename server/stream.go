package server

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine/broadcast"
	"rollcall/wire"
)

// stream answers GET wire.StreamPath: it checks who asks and takes the connection over.
func (s *Server) stream(ctx *fasthttp.RequestCtx) {
	now := s.opts.Now()
	user, until, refusal := s.admit(ctx, now)
	if refusal != none {
		s.metrics.streams[refusal].Add(1)
		s.answer(ctx, refusal)
		return
	}
	expires := s.expiresNanos(until, now)
	chunked, allowed := ctx.Request.Header.IsHTTP11(), s.origins.allowed(origin(ctx))
	ctx.HijackSetNoResponse(true) // ours is the head in takeover; fasthttp's would say Content-Length: 0
	ctx.Hijack(func(c net.Conn) { s.takeOver(c, user, chunked, allowed, expires) })
}

// admit makes the checks of a stream in the order of the wire contract.
func (s *Server) admit(ctx *fasthttp.RequestCtx, now time.Time) (user uuid.UUID, until float64, refusal reply) {
	text := wire.TrimSpace(ctx.QueryArgs().Peek(wire.UserParam))
	if len(text) == 0 {
		return user, 0, missingUserID
	}
	user, form := wire.ParseID(text)
	if form == wire.IDInvalid {
		return user, 0, invalidUserID
	}
	if len(s.secrets.Load().signingKeys) == 0 {
		return user, 0, signingNotConfigured
	}
	token, ok := s.streamToken(ctx)
	if !ok {
		return user, 0, unauthorized
	}
	until, refusal = s.verify(token, string(wire.AppendID(nil, user)), now)
	return user, until, refusal
}

// takeOver gives the connection to the broadcaster, or answers why not. It runs on a goroutine of its own, outside
// fasthttp's accounting, and is the first to know that the connection is still there: so the engine is asked here and not
// in the handler whether it takes one more. allowed is what originSet.allowed said to the request.
func (s *Server) takeOver(c net.Conn, user uuid.UUID, chunked bool, allowed string, expiresNanos int64) {
	raw, source := release(c)
	conn, err := s.presence.Take(raw)
	if err != nil {
		defer s.perSource.leave(source)
		s.opts.Logger.Warn("a stream's connection could not be taken over", "error", err)
		s.metrics.answers[streamUnavailable].Add(1)
		s.metrics.streams[streamUnavailable].Add(1)
		_ = raw.SetWriteDeadline(time.Now().Add(answerPatience))
		_, _ = raw.Write(s.wholeAnswer(streamUnavailable, allowed))
		_ = raw.Close()
		return
	}
	conn = s.perSource.hold(conn, source)
	err = s.presence.Subscribe(broadcast.Subscription{
		User:         user,
		Conn:         conn,
		Head:         s.streamHead(chunked, allowed),
		Chunked:      chunked,
		ExpiresNanos: expiresNanos,
	})
	if err != nil {
		s.turnAway(conn, err, allowed)
		return
	}
	s.metrics.answers[streaming].Add(1)
}

// release gets the connection below fasthttp's and ours: what they keep, a 4 KB reader above all, would stay for as long
// as the stream. Bytes that the reader holds are input behind the request, which a stream ignores. The connection still
// counts for source.
func release(c net.Conn) (raw net.Conn, source netip.Prefix) {
	if hijacked, ok := c.(interface{ UnsafeConn() net.Conn }); ok {
		c = hijacked.UnsafeConn()
	}
	if own, ok := c.(*conn); ok {
		return own.release()
	}
	return c, source
}

// streamHead is the head of a stream's response. An HTTP/1.0 client cannot read chunks: its body ends with the connection.
func (s *Server) streamHead(chunked bool, allowed string) []byte {
	head := make([]byte, 0, 384)
	head = append(head, "HTTP/1.1 200 OK\r\n"...)
	if chunked {
		head = append(head, "Transfer-Encoding: chunked\r\n"...)
	}
	head = append(head, "Content-Type: "+wire.EventsType+"\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"...)
	return s.endHead(head, allowed)
}

// turnAway answers 503 on a connection that the broadcaster did not want, and closes it. The answer fits into the empty
// buffer of a socket, so a single try is enough.
func (s *Server) turnAway(c broadcast.Conn, why error, allowed string) {
	r := streamUnavailable
	switch {
	case errors.Is(why, broadcast.ErrDraining):
		r = draining
	case errors.Is(why, broadcast.ErrTooMany):
		r = tooManyStreams
	case errors.Is(why, broadcast.ErrTooManyOfUser):
		r = tooManyStreamsOfUser
	}
	s.metrics.answers[r].Add(1)
	s.metrics.streams[r].Add(1)
	_, _ = c.Write(s.wholeAnswer(r, allowed))
	_ = c.CloseWrite()
	_ = c.Close()
}

// wholeAnswer is the full text of an error, for connections that are not, or no longer, fasthttp's. Retry-After varies, so
// that those turned away together do not come back together.
func (s *Server) wholeAnswer(r reply, allowed string) []byte {
	a := &answers[r]
	text := make([]byte, 0, 512)
	text = append(text, "HTTP/1.1 "...)
	text = strconv.AppendInt(text, int64(a.status), 10)
	text = append(text, ' ')
	text = append(text, fasthttp.StatusMessage(a.status)...)
	text = append(text, "\r\nContent-Type: "+wire.JSONType+"\r\nContent-Length: "...)
	text = strconv.AppendInt(text, int64(len(a.body)), 10)
	text = append(text, "\r\nRetry-After: "...)
	text = strconv.AppendInt(text, int64(1+rand.IntN(10)), 10)
	text = append(text, "\r\nAccess-Control-Expose-Headers: Retry-After\r\n"...)
	return append(s.endHead(text, allowed), a.body...)
}

// endHead appends the headers that every head of ours ends with, and the blank line.
func (s *Server) endHead(head []byte, allowed string) []byte {
	head = append(head, "Date: "...)
	head = fasthttp.AppendHTTPDate(head, s.opts.Now())
	head = s.appendCORS(append(head, "\r\n"...), allowed)
	return append(head, "Connection: close\r\n\r\n"...)
}
