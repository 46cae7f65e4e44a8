package server

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/token"
	"rollcall/wire"
)

// secrets are what requests are judged by. They are replaced as a whole, never changed: a request sees the old ones or the
// new ones.
type secrets struct {
	ingestTokens token.Shared
	signingKeys  token.Keys
}

// SetSecrets replaces the ingest tokens and the signing keys for every request from now on. An open stream goes on until
// its token ends, whoever signed it. On an error, which tells all that is wrong, the old ones stay. Any goroutine.
func (s *Server) SetSecrets(ingestTokens, signingKeys []string) error {
	if err := checkSecrets(ingestTokens, signingKeys); err != nil {
		return err
	}
	s.secrets.Store(&secrets{token.NewShared(ingestTokens), slices.Clone(signingKeys)})
	return nil
}

// checkSecrets reports every secret that could never match.
func checkSecrets(ingestTokens []string, signingKeys token.Keys) error {
	return errors.Join(token.CheckShared(ingestTokens), signingKeys.Check())
}

// ingest checks the bearer token of a heartbeat.
func (s *Server) ingest(ctx *fasthttp.RequestCtx) reply {
	tokens := s.secrets.Load().ingestTokens
	if tokens.None() {
		return ingestNotConfigured
	}
	text, ok := bearer(ctx)
	if !ok || !tokens.Has(text) {
		return unauthorized
	}
	return none
}

// bearer returns the token of the Authorization header: the scheme in any case, one space, and all up to the next space.
// More than one such header is none, since who checked the other is not known.
func bearer(ctx *fasthttp.RequestCtx) (text []byte, ok bool) {
	headers := ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)
	if len(headers) != 1 {
		return nil, false
	}
	scheme, rest, _ := bytes.Cut(headers[0], []byte(" "))
	text, _, _ = bytes.Cut(rest, []byte(" "))
	return text, len(text) > 0 && bytes.EqualFold(scheme, []byte("Bearer"))
}

// streamToken returns the token of the Authorization header, or that of the query where Options.StreamQueryToken allows it
// and there is no such header. Two in the query are none, as two headers are.
func (s *Server) streamToken(ctx *fasthttp.RequestCtx) (text []byte, ok bool) {
	if !s.opts.StreamQueryToken || len(ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)) > 0 {
		return bearer(ctx)
	}
	tokens := ctx.QueryArgs().PeekMulti(wire.TokenParam)
	if len(tokens) != 1 {
		return nil, false
	}
	return tokens[0], len(tokens[0]) > 0
}

// verify checks a stream token for a user, given by id in canonical text. until is when the token ends, unix
// milliseconds.
func (s *Server) verify(text []byte, user string, now time.Time) (until float64, refusal reply) {
	until, err := s.secrets.Load().signingKeys.Verify(text, wire.ScopeRead, user, now)
	switch err {
	case nil:
		return until, none
	case token.ErrExpired:
		return 0, tokenExpired
	case token.ErrScope:
		return 0, insufficientScope
	case token.ErrUser:
		return 0, tokenUserMismatch
	}
	return 0, invalidToken
}

// expiresNanos is the instant of the engine's clock at which a token ends that ends at untilMS of the wall clock. It
// saturates.
func (s *Server) expiresNanos(untilMS float64, now time.Time) int64 {
	if s.opts.TokenExpiryIgnore {
		return 0 // never
	}
	left := (untilMS - float64(now.UnixMilli())) * 1e6
	nowNanos := s.opts.NowNanos()
	if left >= float64(math.MaxInt64-nowNanos) {
		return math.MaxInt64
	}
	return nowNanos + int64(left)
}
