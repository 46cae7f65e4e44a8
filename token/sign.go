package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/goccy/go-json"
	"github.com/google/uuid"
)

// Claims are the payload of a signed token: the subject, what it may do, and until when (unix
// milliseconds).
type Claims struct {
	TokenID    string   `json:"token_id"`
	UserID     string   `json:"user_id"` // canonical, lowercase
	DeviceID   string   `json:"device_id"`
	Scope      []string `json:"scope"`
	ExpMS      int64    `json:"exp_ms"`
	IssuedAtMS int64    `json:"issued_at_ms"`

	// UserIDs are further users that may be read, at most MaxUserIDs; UsersSHA256 is the digest of
	// a list that a request brings, see the function of that name. Empty: left out.
	UserIDs     []string `json:"user_ids,omitempty"`
	UsersSHA256 string   `json:"users_sha256,omitempty"`
}

// Sign makes the text of a token. It refuses an empty key, a user that no request can name, and too
// many users.
func Sign(key string, c Claims) (string, error) {
	for _, user := range append([]string{c.UserID}, c.UserIDs...) {
		if !isUser(user) {
			return "", fmt.Errorf("token: sign: user id %q: want a UUID in lowercase", user)
		}
	}
	if n := len(c.UserIDs); n > MaxUserIDs {
		return "", fmt.Errorf("token: sign: %d further users: a token may name %d; "+
			"sign users_sha256 of a longer list", n, MaxUserIDs)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	return SignPayload(key, payload)
}

// isUser reports whether text is an id of the contract: canonical, of a version and the variant
// that RFC 9562 knows.
func isUser(text string) bool {
	id, err := uuid.Parse(text)
	return err == nil && id.String() == text && hasVersion(id)
}

func hasVersion(id uuid.UUID) bool {
	return id.Version() >= 1 && id.Version() <= 8 && id.Variant() == uuid.RFC4122
}

// SignPayload makes the text of a token from any payload, valid or not.
func SignPayload(key string, payload []byte) (string, error) {
	if key == "" {
		return "", errors.New("token: sign: the key is empty")
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
