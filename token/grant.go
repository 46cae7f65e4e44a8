package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// MaxUserIDs is how many further users a token may name in user_ids.
const MaxUserIDs = 200

// Grant is what a verified token lets its bearer read. It does not change, and any goroutine may
// use it. Its zero value covers nothing.
type Grant struct {
	// ExpMS is when the token ends, in unix milliseconds.
	ExpMS float64

	// Subject is a digest of whose token it is: its user_id, else its token_id. A token with
	// neither is a subject of its own.
	Subject [16]byte

	// Users are those that the token names, in its order and each once: user_id, then user_ids.
	Users []uuid.UUID

	user uuid.UUID // user_id, else nil

	one  bool // it has the scope of Verify
	any  bool // it has the scope that covers every user
	hash bool // digest is that of a list that it covers

	digest [sha256.Size]byte
	sorted []uuid.UUID // Users
}

// Grant checks a token for one of two scopes: scope covers the users that the token names, every
// covers all. The checks are those of Verify, in their order; user_ids or users_sha256 of the wrong
// form make the token an invalid one.
func (k Keys) Grant(text []byte, scope, every string, now time.Time) (g Grant, err error) {
	claims, ok := k.open(text)
	if !ok || !g.read(claims, text) {
		return Grant{}, ErrInvalid
	}
	if g.ExpMS, ok = expiry(claims, now); !ok {
		return Grant{}, ErrExpired
	}
	g.one, g.any = hasScope(claims, scope), hasScope(claims, every)
	if !g.one && !g.any {
		return Grant{}, ErrScope
	}
	return g, nil
}

// read takes the claims that say whose token it is and whom it covers; false: they are malformed.
func (g *Grant) read(claims map[string]any, text []byte) (ok bool) {
	user, _ := claims["user_id"].(string)
	id, _ := claims["token_id"].(string)
	subject, isUUID := parseUser(user)
	switch {
	case isUUID:
		g.user, g.Users = subject, append(g.Users, subject)
		g.Subject = digestOfText("user_id", subject.String())
	case user != "":
		g.Subject = digestOfText("user_id", user)
	case id != "":
		g.Subject = digestOfText("token_id", id)
	default:
		g.Subject = digestOfText("token", string(text))
	}
	return g.readUsers(claims["user_ids"]) && g.readHash(claims["users_sha256"])
}

func (g *Grant) readUsers(claim any) (ok bool) {
	list, ok := claim.([]any)
	if !ok || len(list) > MaxUserIDs {
		return claim == nil
	}
	g.Users = slices.Grow(g.Users, len(list))
	for _, item := range list {
		text, _ := item.(string)
		user, ok := parseUser(text)
		if !ok {
			return false
		}
		g.Users = append(g.Users, user)
	}
	g.sorted = slices.Clone(g.Users)
	slices.SortFunc(g.sorted, compareIDs)
	if g.sorted = slices.Compact(g.sorted); len(g.sorted) < len(g.Users) {
		g.Users = distinct(g.Users)
	}
	return true
}

func (g *Grant) readHash(claim any) (ok bool) {
	text, ok := claim.(string)
	if !ok {
		return claim == nil
	}
	sum, ok := decodeBase64([]byte(strings.TrimSuffix(text, "=")))
	g.hash = ok && len(sum) == len(g.digest)
	copy(g.digest[:], sum)
	return g.hash
}

// Any reports whether the token covers every user.
func (g *Grant) Any() bool { return g.any }

// Is reports whether the token is of this user itself and opens a stream of it, as Verify does.
func (g *Grant) Is(user uuid.UUID) bool {
	return g.one && g.user == user && user != uuid.Nil
}

// Covers reports whether the token lets its bearer read all users of a list, in which each stands
// once.
func (g *Grant) Covers(users []uuid.UUID) bool {
	switch {
	case g.any:
		return true
	case !g.one:
		return false
	}
	return g.names(users) || g.hash && g.digest == UsersDigest(users)
}

// names reports whether the token names all of the users.
func (g *Grant) names(users []uuid.UUID) bool {
	known := g.sorted
	if known == nil {
		known = g.Users // one at most
	}
	for _, user := range users {
		if _, found := slices.BinarySearchFunc(known, user, compareIDs); !found {
			return false
		}
	}
	return true
}

// UsersDigest is SHA-256 over the bytes of the ids, sorted, which a token's users_sha256 is.
func UsersDigest(users []uuid.UUID) [sha256.Size]byte {
	sorted := slices.Clone(users)
	slices.SortFunc(sorted, compareIDs)
	text := make([]byte, 0, len(sorted)*len(uuid.UUID{}))
	for i := range sorted {
		text = append(text, sorted[i][:]...)
	}
	return sha256.Sum256(text)
}

// UsersSHA256 is the claim of that name for a list of users, in which each stands once.
func UsersSHA256(users []uuid.UUID) string {
	digest := UsersDigest(users)
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

// parseUser reads an id in its canonical form, of any case.
func parseUser(text string) (id uuid.UUID, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, false
	}
	var digits [2 * len(id)]byte
	n := 0
	for _, part := range [...]string{text[:8], text[9:13], text[14:18], text[19:23], text[24:]} {
		n += copy(digits[n:], part)
	}
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil && hasVersion(id)
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// distinct leaves out of users what stands there already.
func distinct(users []uuid.UUID) []uuid.UUID {
	seen := make(map[uuid.UUID]bool, len(users))
	return slices.DeleteFunc(users, func(user uuid.UUID) bool {
		had := seen[user]
		seen[user] = true
		return had
	})
}

func digestOfText(kind, text string) (d [16]byte) {
	sum := sha256.Sum256([]byte(kind + "\x00" + text))
	copy(d[:], sum[:])
	return d
}
