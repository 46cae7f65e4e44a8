package server

import (
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

// maxLists is how many bodies with lists of users are read at a time.
const maxLists = 512

// readers makes the checks that the routes of many users share: who reads, and which users. Any
// goroutine may use it.
type readers struct {
	secrets *secrets
	answers *answers
	bodies  *places // of lists
}

// keptListBytes is how much of a body's memory is kept for the next one.
const keptListBytes = 128 << 10

// listRequest is what a request for many users needs; pooled.
type listRequest struct {
	users wire.Users
	body  []byte // changed by users
	sent  sentBody
	place place
}

var listRequests = sync.Pool{New: func() any { return new(listRequest) }}

// grant checks a token: that there is one, what it grants.
func (r *readers) grant(ctx *fasthttp.RequestCtx, bearer []byte, found bool, now time.Time) (
	token.Grant, reply.Reply) {
	keys := r.secrets.signing()
	if len(keys) == 0 {
		return token.Grant{}, reply.SigningNotConfigured
	}
	if !found {
		return token.Grant{}, reply.Unauthorized
	}
	grant, err := keys.Grant(bearer, wire.ScopeRead, wire.ScopeReadAny, now)
	if err == nil {
		conns.Prove(ctx.Conn())
	}
	return grant, tokenReply(err)
}

// listBytes bounds the body of a list of so many users: each id in quotes and with a comma has 39
// bytes, and may have as many more of white space around it as makes 64.
func listBytes(users int) int { return max(64<<10, 64*users+1024) }

// decode reads the request's list. A list that is too long is none of its refusals.
func (l *listRequest) decode(ctx *fasthttp.RequestCtx, bodies *places, most int) reply.Reply {
	if refusal := l.read(ctx, bodies, listBytes(most)); refusal != reply.None {
		return refusal
	}
	switch l.users.Decode(l.body, most) {
	case wire.ListInvalidJSON:
		return reply.InvalidJSON
	case wire.ListMissing:
		return reply.MissingUserIDs
	case wire.ListInvalid:
		return reply.InvalidUserIDs
	}
	return reply.None
}

// read reads the request's body. One that comes slowly makes room for others, as those of batches.
func (l *listRequest) read(ctx *fasthttp.RequestCtx, bodies *places, most int) reply.Reply {
	if ctx.Request.Header.ContentLength() > most {
		return reply.BodyTooLarge
	}
	if !bodies.take(&l.place, ctx.Conn()) {
		return reply.TooManyLists
	}
	l.sent = newSentBody(ctx)
	l.sent.place = &l.place
	body, err := readAll(&l.sent, l.body[:0], most)
	l.body = body
	cut := l.place.leave()
	switch {
	case cut && err != nil && err != io.EOF:
		return reply.BodyTooSlow
	case err == io.EOF:
		_ = ctx.Request.CloseBodyStream()
		return reply.None
	case err == errTooMuch:
		return reply.BodyTooLarge
	}
	return readError(err)
}

// readAll appends all that r has, most bytes at most. The error is io.EOF when that was all.
func readAll(r io.Reader, dst []byte, most int) ([]byte, error) {
	for {
		dst = slices.Grow(dst, 1024)
		n, err := r.Read(dst[len(dst):cap(dst)])
		if dst = dst[:len(dst)+n]; len(dst) > most {
			return dst, errTooMuch
		}
		if err != nil {
			return dst, err
		}
	}
}

// free gives the list back.
func (l *listRequest) free() {
	l.sent = sentBody{}
	if cap(l.body) > keptListBytes {
		l.body = nil
	}
	listRequests.Put(l)
}

// badElement answers a list whose element at index is none; wire.NoIndex: no single one is at
// fault.
func (a *answers) badElement(ctx *fasthttp.RequestCtx, r reply.Reply, index int) {
	a.answer(ctx, r)
	if index == wire.NoIndex {
		return
	}
	body := append([]byte(nil), r.Body()...)
	body = append(body[:len(body)-1], `,"index":`...)
	body = append(strconv.AppendInt(body, int64(index), 10), '}')
	ctx.Response.SetBodyRaw(body)
}
