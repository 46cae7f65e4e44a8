package client

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxTokenContacts is how many Contacts a token may name. For more, up to 1,000, use Users.
const MaxTokenContacts = 200

// MintOptions say what a token is for. UserID and TTL are required.
type MintOptions struct {
	// UserID is the subject: whose token it is. It may be read, as well as what is named below.
	UserID string
	// Contacts are further users that may be read, at most 200: a contact list in the token.
	Contacts []string
	// Users is a list that the app sends itself (WatchManyOptions.UserIDs, QueryOptions.UserIDs):
	// the token holds its digest, so the list may have 1,000 users, and has to be sent whole. Nil:
	// none.
	Users []string
	// AnyUser allows to read every user: for backends, never for an app.
	AnyUser bool
	// TTL is how long the token lives. Minutes are good: the clients ask for the next one.
	TTL time.Duration
}

// Mint makes a signed token: for backends, which have the signing key
// (PRESENCE_DO_TOKEN_SIGNING_KEY) and know who asks. An app gets the token and never the key.
func Mint(key string, o MintOptions) (string, error) {
	ids := slices.Concat([]string{o.UserID}, o.Contacts)
	var err error
	refuse := func(bad bool, text string) {
		if bad {
			err = errors.Join(err, errors.New("client: mint: "+text))
		}
	}
	refuse(key == "", "the key is empty")
	for _, id := range ids {
		refuse(!canonicalID(id), fmt.Sprintf("user %q: want a UUID in lowercase", id))
	}
	refuse(o.TTL < time.Millisecond, fmt.Sprintf("TTL %v: want some minutes", o.TTL))
	refuse(len(o.Contacts) > MaxTokenContacts, fmt.Sprintf(
		"%d Contacts: want at most %d; Users takes more", len(o.Contacts), MaxTokenContacts))
	digest := ""
	if o.Users != nil {
		text, wrong := UsersSHA256(o.Users)
		digest, err = text, errors.Join(err, wrong)
	}
	if err != nil {
		return "", err
	}
	now := time.Now()
	payload, err := json.Marshal(struct {
		TokenID     string   `json:"token_id"`
		UserID      string   `json:"user_id"`
		UserIDs     []string `json:"user_ids,omitempty"`
		UsersSHA256 string   `json:"users_sha256,omitempty"`
		Scope       []string `json:"scope"`
		ExpMS       int64    `json:"exp_ms"`
		IssuedAtMS  int64    `json:"issued_at_ms"`
	}{newTokenID(), o.UserID, o.Contacts, digest, o.scope(),
		now.Add(o.TTL).UnixMilli(), now.UnixMilli()})
	if err != nil {
		panic("bug: claims that are no JSON: " + err.Error())
	}
	signed := base64.RawURLEncoding.EncodeToString(payload)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

func (o *MintOptions) scope() []string {
	if o.AnyUser {
		return []string{"presence:read", "presence:read:any"}
	}
	return []string{"presence:read"}
}

// newTokenID names a token in audit lines and revocation.
func newTokenID() string {
	var random [16]byte
	rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

// UsersSHA256 is the claim users_sha256: the digest of a list of users, whatever their order and
// the case of their ids; one that comes twice counts once.
func UsersSHA256(users []string) (string, error) {
	raw := make([]string, 0, len(users))
	for i, id := range users {
		b, err := hex.DecodeString(strings.ReplaceAll(strings.ToLower(id), "-", ""))
		if err != nil || !canonicalID(strings.ToLower(id)) {
			return "", fmt.Errorf("client: users[%d] %q: want a UUID", i, id)
		}
		raw = append(raw, string(b))
	}
	slices.Sort(raw)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(raw), "")))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
