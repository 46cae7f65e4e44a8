package server

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

// maxLingerMS is the longest linger of a stream.
const maxLingerMS = 600_000

// listStreams answers wire.ListStreamPath and wire.RenewPath. Any goroutine may use it.
type listStreams struct {
	streams  *streams
	readers  *readers
	presence interface {
		Renew(name string, expiresNanos int64, fits broadcast.Fits) error
	}
	resumes   resumes
	mostUsers int // Options.MaxUsersPerStream
}

// grant makes the checks that come before the list.
func (s *listStreams) grant(ctx *fasthttp.RequestCtx, now engine.Instant) (
	token.Grant, reply.Reply) {
	text, ok := s.streams.token(ctx)
	return s.readers.grant(ctx, text, ok, time.UnixMilli(int64(now.WallMS)))
}

// admit answers a stream that would be refused whatever its body is.
func (s *listStreams) admit(ctx *fasthttp.RequestCtx) {
	_, refusal := s.grant(ctx, s.streams.clock())
	if refusal == reply.None && ctx.Request.Header.ContentLength() > listBytes(s.mostUsers) {
		refusal = reply.BodyTooLarge
	}
	if refusal != reply.None {
		s.streams.refuse(ctx, refusal)
	}
}

// get opens a stream of the users that the token names.
func (s *listStreams) get(ctx *fasthttp.RequestCtx) {
	now := s.streams.clock()
	grant, refusal := s.grant(ctx, now)
	if refusal != reply.None {
		s.streams.refuse(ctx, refusal)
		return
	}
	if len(grant.Users) == 0 {
		refusal = reply.MissingUserIDs
	}
	s.open(ctx, now, &grant, grant.Users, len(grant.Users) > s.mostUsers, refusal)
}

// post opens a stream of the users in the body.
func (s *listStreams) post(ctx *fasthttp.RequestCtx) {
	now := s.streams.clock()
	grant, refusal := s.grant(ctx, now)
	if refusal != reply.None {
		s.streams.refuse(ctx, refusal)
		return
	}
	l := listRequests.Get().(*listRequest)
	defer l.free()
	refusal = l.decode(ctx, s.readers.bodies, s.mostUsers)
	if refusal == reply.InvalidUserIDs {
		s.streams.answers.counters.Streams[refusal].Add(1)
		s.streams.answers.badElement(ctx, refusal, l.users.Bad)
		return
	}
	s.open(ctx, now, &grant, l.users.IDs, l.users.TooMany(), refusal)
}

// open makes the rest of the checks, and the stream. It keeps none of users.
func (s *listStreams) open(ctx *fasthttp.RequestCtx, now engine.Instant, grant *token.Grant,
	users []uuid.UUID, tooMany bool, refusal reply.Reply) {
	var view broadcast.View
	var linger time.Duration
	if refusal == reply.None {
		view, linger, refusal = viewOf(ctx.QueryArgs())
	}
	switch {
	case refusal != reply.None:
	case tooMany:
		refusal = reply.TooManyUsers
	case !grant.Covers(users):
		refusal = reply.TokenUserMismatch
	}
	if refusal != reply.None {
		s.streams.refuse(ctx, refusal)
		return
	}
	list := s.resumes.list(slices.Clone(users), view, linger, cursorOf(ctx))
	list.Backend = grant.Any()
	s.streams.hijack(ctx, broadcast.Subscription{
		List: list, Owner: grant.Subject, ExpiresNanos: s.streams.expiresNanos(grant.ExpMS, now),
	})
}

// viewOf reads what a stream is to show. A parameter that comes twice is none that can be meant.
func viewOf(query *fasthttp.Args) (view broadcast.View, linger time.Duration, refusal reply.Reply) {
	views, lingers := query.PeekMulti(wire.ViewParam), query.PeekMulti(wire.LingerParam)
	switch {
	case len(views) == 0 || len(views) == 1 && string(views[0]) == "devices":
	case len(views) == 1 && string(views[0]) == "users":
		view = broadcast.ViewUsers
	default:
		return view, 0, reply.InvalidView
	}
	if len(lingers) == 0 {
		return view, 0, reply.None
	}
	ms, err := strconv.ParseUint(string(lingers[0]), 10, 32)
	if err != nil || ms > maxLingerMS || len(lingers) > 1 || view != broadcast.ViewUsers {
		return view, 0, reply.InvalidLinger
	}
	return view, time.Duration(ms) * time.Millisecond, reply.None
}

// cursorOf is what the client says that it has; nil: nothing. The header is newer than the URL,
// which an EventSource asks for again as it is.
func cursorOf(ctx *fasthttp.RequestCtx) []byte {
	if text := ctx.Request.Header.Peek("Last-Event-ID"); len(text) > 0 {
		return text
	}
	return ctx.QueryArgs().Peek(wire.ResumeParam)
}

// renew moves the end of an open stream to that of the token.
func (s *listStreams) renew(ctx *fasthttp.RequestCtx) {
	answers, now := s.streams.answers, s.streams.clock()
	text, ok := bearer(&ctx.Request.Header)
	grant, refusal := s.readers.grant(ctx, text, ok, time.UnixMilli(int64(now.WallMS)))
	if refusal == reply.None {
		refusal = s.renewBy(ctx, &grant, now)
	}
	if refusal == reply.None {
		refusal = reply.Renewed
	}
	answers.answer(ctx, refusal)
}

func (s *listStreams) renewBy(ctx *fasthttp.RequestCtx, grant *token.Grant, now engine.Instant) (
	refusal reply.Reply) {
	name, _ := ctx.UserValue(wire.StreamParam).(string)
	err := s.presence.Renew(name, s.streams.expiresNanos(grant.ExpMS, now), fits(grant))
	switch {
	case err == nil:
		return reply.None
	case errors.Is(err, broadcast.ErrUnfit):
		return reply.TokenUnfit
	case errors.Is(err, engine.ErrNotMine):
		return reply.NotOwned
	}
	return reply.NoStream
}

// fits reports which streams a token may renew: of its subject, if it covers all of their users. A
// stream of a single user has that user as its owner, which is no subject of a token; it wants what
// it was opened with.
func fits(grant *token.Grant) broadcast.Fits {
	return func(owner [16]byte, users func(yield func(uuid.UUID) bool)) bool {
		if grant.Is(owner) {
			return true
		}
		return owner == grant.Subject && (grant.Any() || grant.Covers(slices.Collect(users)))
	}
}
