package server

import (
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

const (
	// maxAsked is how many users wire.PresencePath takes, and maxQueried wire.QueryPath.
	maxAsked   = 100
	maxQueried = 1000
	// maxDevicesAsked is how many devices one answer shows.
	maxDevicesAsked = 20_000
)

// queries answer wire.PresencePath and wire.QueryPath. Any goroutine may use it.
type queries struct {
	presence interface {
		Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error
	}
	readers *readers
	answers *answers
	clock   engine.Clock
	memory  *slabs
	devices int // maxDevicesAsked but in tests
}

func (q *queries) grant(ctx *fasthttp.RequestCtx) (token.Grant, reply.Reply) {
	text, ok := bearer(&ctx.Request.Header)
	now := time.UnixMilli(int64(q.clock().WallMS))
	return q.readers.grant(ctx, text, ok, now)
}

// admit answers a query that would be refused whatever its body is.
func (q *queries) admit(ctx *fasthttp.RequestCtx) {
	_, refusal := q.grant(ctx)
	if refusal == reply.None && ctx.Request.Header.ContentLength() > listBytes(maxQueried) {
		refusal = reply.BodyTooLarge
	}
	if refusal != reply.None {
		q.answers.answer(ctx, refusal)
	}
}

// get answers a query whose users are in the URL.
func (q *queries) get(ctx *fasthttp.RequestCtx) {
	grant, refusal := q.grant(ctx)
	if refusal != reply.None {
		q.answers.answer(ctx, refusal)
		return
	}
	l := listRequests.Get().(*listRequest)
	defer l.free()
	l.users.Begin(maxAsked)
	texts := ctx.QueryArgs().PeekMulti(wire.UserParam)
	for _, text := range texts {
		l.users.Add(text)
	}
	switch {
	case len(texts) == 0 || len(texts) == 1 && len(wire.TrimSpace(texts[0])) == 0:
		refusal = reply.MissingUserID
	case l.users.Bad != wire.NoIndex:
		refusal = reply.InvalidUserID
	}
	q.answer(ctx, &grant, &l.users, refusal)
}

// post answers a query whose users are in the body.
func (q *queries) post(ctx *fasthttp.RequestCtx) {
	grant, refusal := q.grant(ctx)
	if refusal != reply.None {
		q.answers.answer(ctx, refusal)
		return
	}
	l := listRequests.Get().(*listRequest)
	defer l.free()
	refusal = l.decode(ctx, q.readers.bodies, maxQueried)
	q.answer(ctx, &grant, &l.users, refusal)
}

// answer makes the rest of the checks, and the answer.
func (q *queries) answer(
	ctx *fasthttp.RequestCtx, grant *token.Grant, users *wire.Users, refusal reply.Reply,
) {
	switch {
	case refusal == reply.InvalidUserIDs || refusal == reply.InvalidUserID:
		q.answers.badElement(ctx, refusal, users.Bad)
		return
	case refusal != reply.None:
	case users.TooMany():
		refusal = reply.TooManyUsers
	case !grant.Covers(users.IDs):
		refusal = reply.TokenUserMismatch
	default:
		refusal = q.show(ctx, users.IDs)
	}
	if refusal != reply.None {
		q.answers.answer(ctx, refusal)
	}
}

// show answers with what is known of the users.
func (q *queries) show(ctx *fasthttp.RequestCtx, ids []uuid.UUID) reply.Reply {
	body := newSlabBody(q.memory)
	w := presenceWriter{body: body}
	w.begin()
	err := q.presence.Users(ids, q.devices, w.user)
	w.end()
	size := body.end()
	switch {
	case errors.Is(err, engine.ErrTooManyDevicesAsked):
		_ = body.Close()
		return reply.TooManyDevicesAsked
	case errors.Is(err, engine.ErrNotMine):
		_ = body.Close()
		return reply.NotOwned
	case err != nil:
		_ = body.Close()
		if q.answers.askLogged.Take() {
			q.answers.logger.Warn("queries are refused", "error", err)
		}
		return reply.PresenceUnavailable
	case body.full:
		_ = body.Close()
		return reply.TooManyQueries
	}
	q.answers.answer(ctx, reply.Presence)
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store") // it is old a moment later
	ctx.Response.SetBodyStream(body, size)
	return reply.None
}

// presenceWriter writes the answer to a query. Single owner.
//
//	{"users":[{"user_id":"…","status":"online","devices_online":1,"last_seen_ms":1,"devices":[
//	  {the eight fields,"last_heartbeat_ms":1,"last_offline_ms":null,"updated_at_ms":1}]}]}
type presenceWriter struct {
	body   *slabBody
	users  int
	begins []byte // how each device of the user begins
	times  wire.Times
}

const (
	// mostOfUser is the length of a user without its devices at most, and mostOfDevice that of a
	// device: a source of control characters has six bytes for each.
	mostOfUser   = 256
	mostOfDevice = 512 + 6*wire.MaxSourceBytes
)

func (w *presenceWriter) begin() {
	if dst, ok := w.body.room(mostOfUser); ok {
		w.body.put(append(dst, `{"users":[`...))
	}
}

func (w *presenceWriter) end() {
	if dst, ok := w.body.room(mostOfUser); ok {
		w.body.put(append(dst, `]}`...))
	}
}

// user writes one user, without white space.
func (w *presenceWriter) user(u *engine.User) {
	dst, ok := w.body.room(mostOfUser)
	if !ok {
		return
	}
	if w.users++; w.users > 1 {
		dst = append(dst, ',')
	}
	dst = append(dst, `{"user_id":"`...)
	dst = wire.AppendID(dst, u.ID)
	dst = append(dst, `","status":"`...)
	status := engine.Offline
	if u.Online > 0 {
		status = engine.Online
	}
	dst = append(dst, status.String()...)
	dst = append(dst, `","devices_online":`...)
	dst = wire.AppendUint(dst, uint64(u.Online))
	dst = append(dst, `,"last_seen_ms":`...)
	dst = wire.AppendTime(dst, u.SeenAtMS)
	dst = append(dst, `,"devices":[`...)
	w.body.put(dst)
	w.begins = wire.AppendEventUser(w.begins[:0], u.ID)
	for i := range u.Devices {
		if dst, ok = w.body.room(mostOfDevice); !ok {
			return
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		w.body.put(w.appendDevice(append(dst, w.begins...), &u.Devices[i]))
	}
	if dst, ok = w.body.room(mostOfUser); ok {
		w.body.put(append(dst, `]}`...))
	}
}

// appendDevice appends the rest of a device.
func (w *presenceWriter) appendDevice(dst []byte, d *engine.Device) []byte {
	dst = wire.AppendEventTimes(dst, &d.Event, &w.times)
	dst = append(dst, `,"last_heartbeat_ms":`...)
	dst = w.times.Append(dst, d.HeartbeatAtMS)
	if d.OfflineAtMS == 0 {
		dst = append(dst, `,"last_offline_ms":null,"updated_at_ms":`...)
	} else {
		dst = append(dst, `,"last_offline_ms":`...)
		dst = w.times.Append(dst, d.OfflineAtMS)
		dst = append(dst, `,"updated_at_ms":`...)
	}
	dst = w.times.Append(dst, d.UpdatedAtMS)
	return append(dst, '}')
}
