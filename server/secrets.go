package server

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/token"
)

// secrets are what requests are judged by. They are replaced as a whole, never changed: a request
// sees the old ones or the new ones. Any goroutine may use it.
type secrets struct {
	// current is never nil once set was called. set stores it; each check of a request loads it.
	current atomic.Pointer[secretLists]
}

type secretLists struct {
	ingest  token.Shared
	signing token.Keys
	admin   token.Shared
}

// set replaces the lists. On an error, which says all that is wrong, the old ones stay.
func (s *secrets) set(ingestTokens []string, signingKeys token.Keys, adminTokens []string) error {
	if err := checkSecrets(ingestTokens, signingKeys, adminTokens); err != nil {
		return err
	}
	s.current.Store(&secretLists{
		token.NewShared(ingestTokens), slices.Clone(signingKeys), token.NewShared(adminTokens),
	})
	return nil
}

// checkSecrets reports every secret that could never match.
func checkSecrets(ingestTokens []string, signingKeys token.Keys, adminTokens []string) error {
	return errors.Join(token.CheckShared("ingest token", ingestTokens), signingKeys.Check(),
		token.CheckShared("admin token", adminTokens))
}

// signing returns the keys of stream tokens.
func (s *secrets) signing() token.Keys { return s.current.Load().signing }

// admin returns the operators' tokens.
func (s *secrets) admin() token.Shared { return s.current.Load().admin }

// checkIngest checks the bearer token of a heartbeat.
func (s *secrets) checkIngest(ctx *fasthttp.RequestCtx) reply.Reply {
	tokens := s.current.Load().ingest
	if tokens.None() {
		return reply.IngestNotConfigured
	}
	text, ok := bearer(&ctx.Request.Header)
	if !ok || !tokens.Has(text) {
		return reply.Unauthorized
	}
	conns.Prove(ctx.Conn())
	return reply.None
}

// bearer returns the token of the Authorization header: the scheme in any case, one space, and all
// up to the next space. More than one such header is none, since a proxy may have checked the other
// one.
func bearer(h *fasthttp.RequestHeader) (text []byte, ok bool) {
	headers := h.PeekAll(fasthttp.HeaderAuthorization)
	if len(headers) != 1 {
		return nil, false
	}
	scheme, rest, _ := bytes.Cut(headers[0], []byte(" "))
	text, _, _ = bytes.Cut(rest, []byte(" "))
	return text, len(text) > 0 && bytes.EqualFold(scheme, []byte("Bearer"))
}
