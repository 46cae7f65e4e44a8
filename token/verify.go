package token

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	jsonstd "encoding/json" // for what no key has signed
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-json"
)

// The reasons for which Verify refuses a token, in the order of its checks.
var (
	ErrInvalid = errors.New("token: not one that a key signed")
	ErrExpired = errors.New("token: expired")
	ErrScope   = errors.New("token: the scope is missing")
	ErrUser    = errors.New("token: of another user")
)

// Keys are the keys of signed tokens: any may have signed, the first one signs. A Keys is not
// changed once it is used, and any goroutine may use it.
type Keys []string

// Check reports every key that cannot be used.
func (k Keys) Check() error {
	var errs []error
	for i, key := range k {
		if key == "" {
			errs = append(errs, fmt.Errorf("token: signing key %d is empty", i+1))
		}
	}
	return errors.Join(errs...)
}

// Verify checks a token for a scope and a user, given by id in canonical text, at an instant of the
// wall clock. It returns when the token ends, in unix milliseconds.
func (k Keys) Verify(text []byte, scope, user string, now time.Time) (expMS float64, err error) {
	claims, ok := k.open(text)
	if !ok {
		return 0, ErrInvalid
	}
	if expMS, ok = expiry(claims, now); !ok {
		return 0, ErrExpired
	}
	if !hasScope(claims, scope) {
		return 0, ErrScope
	}
	if claims["user_id"] != any(user) {
		return 0, ErrUser
	}
	return expMS, nil
}

// expiry returns when a token ends; false: that is no number, or not in the future.
func expiry(claims map[string]any, now time.Time) (expMS float64, ok bool) {
	expMS, ok = claims["exp_ms"].(float64)
	return expMS, ok && expMS > float64(now.UnixMilli())
}

func hasScope(claims map[string]any, scope string) bool {
	scopes, _ := claims["scope"].([]any)
	return slices.Contains(scopes, any(scope))
}

// ID returns the token_id that a token claims to have, for a log line: nothing is verified. Empty:
// there is none that can be read, or it is longer than 64 bytes.
func ID(text []byte) string {
	signed, _, ok := bytes.Cut(text, []byte("."))
	if !ok {
		return ""
	}
	payload, ok := decodeBase64(signed)
	var claims struct {
		TokenID string `json:"token_id"`
	}
	if !ok || jsonstd.Unmarshal(payload, &claims) != nil || len(claims.TokenID) > 64 {
		return ""
	}
	return claims.TokenID
}

// open returns the claims of a token that one of the keys signed. The map keeps names exact; a
// struct would take them in any case.
func (k Keys) open(text []byte) (claims map[string]any, ok bool) {
	signed, rest, ok := bytes.Cut(text, []byte("."))
	if !ok {
		return nil, false
	}
	claimed, ok := decodeBase64(rest) // a third part would put a dot into rest
	if !ok || !k.signed(signed, claimed) {
		return nil, false
	}
	payload, ok := decodeBase64(signed)
	if !ok || json.Unmarshal(payload, &claims) != nil {
		return nil, false
	}
	return claims, claims != nil // null is not an object
}

// signed reports whether a key made the signature. Every key is tried (see the package).
func (k Keys) signed(text, claimed []byte) bool {
	found := 0
	for _, key := range k {
		found |= subtle.ConstantTimeCompare(claimed, signature(key, text))
	}
	return found == 1
}

// decodeBase64 reads strict unpadded base64url. The standard decoder would skip line ends.
func decodeBase64(text []byte) (data []byte, ok bool) {
	if bytes.ContainsAny(text, "\r\n") {
		return nil, false
	}
	data, err := base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	return data, err == nil
}
