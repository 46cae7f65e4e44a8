package server

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-json"
	"github.com/valyala/fasthttp"

	"rollcall/wire"
)

// secrets are what requests are judged by. They are replaced as a whole, never changed: a request sees the old ones or the
// new ones.
type secrets struct {
	ingestTokens tokenSet
	signingKeys  []string
}

// SetSecrets replaces the ingest tokens and the signing keys for every request from now on. An open stream goes on until
// its token ends, whoever signed it. On an error, which tells all that is wrong, the old ones stay. Any goroutine.
func (s *Server) SetSecrets(ingestTokens, signingKeys []string) error {
	if err := checkSecrets(ingestTokens, signingKeys); err != nil {
		return err
	}
	s.secrets.Store(&secrets{newTokenSet(ingestTokens), slices.Clone(signingKeys)})
	return nil
}

// checkSecrets reports every secret that could never match.
func checkSecrets(ingestTokens, signingKeys []string) error {
	var errs []error
	for i, token := range ingestTokens {
		if token == "" || strings.ContainsFunc(token, notInToken) {
			errs = append(errs, fmt.Errorf("server: ingest token %d can never match: it is empty or has white space or a "+
				"character outside visible ASCII", i+1))
		}
	}
	for i, key := range signingKeys {
		if key == "" {
			errs = append(errs, fmt.Errorf("server: signing key %d is empty", i+1))
		}
	}
	return errors.Join(errs...)
}

func notInToken(r rune) bool { return r <= ' ' || r >= 0x7f }

// ingest checks the bearer token of a heartbeat.
func (s *Server) ingest(ctx *fasthttp.RequestCtx) reply {
	tokens := s.secrets.Load().ingestTokens
	if len(tokens) == 0 {
		return ingestNotConfigured
	}
	token, ok := bearer(ctx)
	if !ok || !tokens.has(token) {
		return unauthorized
	}
	return none
}

// bearer returns the token of the Authorization header: the scheme in any case, one space, and all up to the next space.
// More than one such header is none, since who checked the other is not known.
func bearer(ctx *fasthttp.RequestCtx) (token []byte, ok bool) {
	headers := ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)
	if len(headers) != 1 {
		return nil, false
	}
	scheme, rest, _ := bytes.Cut(headers[0], []byte(" "))
	token, _, _ = bytes.Cut(rest, []byte(" "))
	return token, len(token) > 0 && bytes.EqualFold(scheme, []byte("Bearer"))
}

// streamToken returns the token of the Authorization header, or that of the query where Options.StreamQueryToken allows it
// and there is no such header. Two in the query are none, as two headers are.
func (s *Server) streamToken(ctx *fasthttp.RequestCtx) (token []byte, ok bool) {
	if !s.opts.StreamQueryToken || len(ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)) > 0 {
		return bearer(ctx)
	}
	tokens := ctx.QueryArgs().PeekMulti(wire.TokenParam)
	if len(tokens) != 1 {
		return nil, false
	}
	return tokens[0], len(tokens[0]) > 0
}

// tokenSet is a list of secrets, kept as digests: digests have one length, so a comparison tells nothing of a secret's.
type tokenSet [][sha256.Size]byte

func newTokenSet(tokens []string) tokenSet {
	set := make(tokenSet, len(tokens))
	for i, token := range tokens {
		set[i] = sha256.Sum256([]byte(token))
	}
	return set
}

// has compares token with every secret (S4).
func (set tokenSet) has(token []byte) bool {
	digest := sha256.Sum256(token)
	found := 0
	for i := range set {
		found |= subtle.ConstantTimeCompare(digest[:], set[i][:])
	}
	return found == 1
}

// Token is the payload of a stream token: who may follow which user, and until when (unix milliseconds).
type Token struct {
	TokenID    string   `json:"token_id"`
	UserID     string   `json:"user_id"` // canonical, lowercase
	DeviceID   string   `json:"device_id"`
	Scope      []string `json:"scope"` // nil: presence:read
	ExpMS      int64    `json:"exp_ms"`
	IssuedAtMS int64    `json:"issued_at_ms"`
}

// SignToken makes the text of a stream token. It refuses an empty key and a user that no stream could have.
func SignToken(key string, t Token) (string, error) {
	if _, form := wire.ParseID([]byte(t.UserID)); form != wire.IDCanonical {
		return "", fmt.Errorf("server: sign token: user id %q: want a UUID in lowercase", t.UserID)
	}
	if t.Scope == nil {
		t.Scope = []string{wire.ScopeRead}
	}
	payload, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("server: sign token: %w", err)
	}
	return SignPayload(key, payload)
}

// SignPayload makes the text of a stream token from any payload, valid or not.
func SignPayload(key string, payload []byte) (string, error) {
	if key == "" {
		return "", errors.New("server: sign token: the key is empty")
	}
	signed := base64.RawURLEncoding.AppendEncode(nil, payload)
	text := append(slices.Clone(signed), '.')
	return string(base64.RawURLEncoding.AppendEncode(text, signature(key, signed))), nil
}

func signature(key string, signed []byte) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(signed)
	return mac.Sum(nil)
}

// verify checks a stream token for a user, given by id in canonical text. until is when the token ends, unix
// milliseconds.
func (s *Server) verify(token []byte, user string, now time.Time) (until float64, refusal reply) {
	payload, ok := s.opened(token)
	if !ok {
		return 0, invalidToken
	}
	until, ok = payload["exp_ms"].(float64)
	if !ok || !(until > float64(now.UnixMilli())) {
		return 0, tokenExpired
	}
	if scopes, _ := payload["scope"].([]any); !slices.Contains(scopes, any(wire.ScopeRead)) {
		return 0, insufficientScope
	}
	if payload["user_id"] != any(user) {
		return 0, tokenUserMismatch
	}
	return until, none
}

// opened returns the payload of a token that one of the keys signed. Every key is tried, and the payload is not looked at
// before a signature holds (S4). The map keeps names exact; a struct would take them in any case.
func (s *Server) opened(token []byte) (payload map[string]any, ok bool) {
	signed, rest, ok := bytes.Cut(token, []byte("."))
	if !ok {
		return nil, false
	}
	claimed, ok := decodeBase64(rest) // a third part would put a dot into rest
	if !ok {
		return nil, false
	}
	found := 0
	for _, key := range s.secrets.Load().signingKeys {
		found |= subtle.ConstantTimeCompare(claimed, signature(key, signed))
	}
	if found == 0 {
		return nil, false
	}
	text, ok := decodeBase64(signed)
	if !ok || json.Unmarshal(text, &payload) != nil {
		return nil, false
	}
	return payload, payload != nil // null is not an object
}

// decodeBase64 reads strict unpadded base64url. The standard decoder would skip line ends.
func decodeBase64(text []byte) (data []byte, ok bool) {
	if bytes.ContainsAny(text, "\r\n") {
		return nil, false
	}
	data, err := base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	return data, err == nil
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
