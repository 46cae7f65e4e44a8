package server

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
	"rollcall/token"
)

// refusedTokens tells the operator of refused tokens, in one line a second at most: how many, and
// what is known of the last one, never the token. Any goroutine may use it.
type refusedTokens struct {
	logger  *slog.Logger
	clients *clients

	mu     sync.Mutex
	count  int // since the last line. guarded by mu
	addr   netip.Addr
	route  string
	reason reply.Reply
	text   []byte // of the last one, for its token_id. guarded by mu
}

// note counts a refused request. The first one since a line has the next one written in a second.
func (t *refusedTokens) note(ctx *fasthttp.RequestCtx, reason reply.Reply) {
	addr := t.clients.addr(ctx)
	text, _ := bearer(&ctx.Request.Header)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	t.addr, t.route, t.reason = addr, string(ctx.Path()), reason
	t.text = append(t.text[:0], text...)
	if t.count == 1 {
		time.AfterFunc(time.Second, t.log)
	}
}

func (t *refusedTokens) log() {
	t.mu.Lock()
	defer t.mu.Unlock()
	attrs := []any{"count", t.count, "address", t.addr, "route", t.route,
		"reason", t.reason.Details()}
	if id := token.ID(t.text); id != "" {
		attrs = append(attrs, "token_id", id)
	}
	t.logger.Warn("tokens are refused", attrs...)
	t.count = 0
}
