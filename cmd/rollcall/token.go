package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"rollcall/token"
	"rollcall/wire"

	"github.com/google/uuid"
)

type tokenCmd struct {
	User           uuid.UUID     `required:"" placeholder:"UUID" help:"The user whose devices the token may see."`
	Device         uuid.UUID     `placeholder:"UUID" help:"The device that the token is for; it is recorded and not checked. Default: a random one."`
	Contact        []uuid.UUID   `placeholder:"UUID" help:"A further user that the token may see; repeatable, at most 200."`
	List           string        `type:"path" placeholder:"FILE" help:"Let the token see the users in FILE, which a request then lists: all of them, and no others. Their ids are apart by white space or commas."`
	Any            bool          `help:"Let the token see every user. For backends."`
	TTL            time.Duration `default:"15m" help:"How long the token is valid. A stream ends when its token does."`
	SigningKeyFile string        `type:"path" placeholder:"FILE" help:"Read the signing key from FILE. The first key signs."`
}

// Help is what `rollcall token --help` says beyond the flags.
func (tokenCmd) Help() string {
	return `The key is read from ` + signingKeyEnv + ` (or --signing-key-file).
It must be one that the server has.
The token goes to standard output, alone:

  curl -N -H "Authorization: Bearer $(rollcall token --user UUID)" \
    "http://127.0.0.1:8787` + wire.StreamPath + `?user_id=UUID"

--contact, --list and --any open the routes of many users:

  curl -N -H "Authorization: Bearer $(rollcall token --user UUID --contact UUID)" \
    "http://127.0.0.1:8787` + wire.ListStreamPath + `?view=users"`
}

// Run prints a token.
func (c tokenCmd) Run() error {
	keys, err := readSecrets(signingKeyEnv, c.SigningKeyFile)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("no signing key: set %s or --signing-key-file", signingKeyEnv)
	}
	if c.User == uuid.Nil {
		return errors.New("--user must not be the nil UUID")
	}
	if c.TTL <= 0 {
		return errors.New("--ttl must be positive")
	}
	if c.Device == uuid.Nil {
		c.Device = uuid.New()
	}
	claims := streamClaims(c.User, c.Device, c.TTL)
	if err := c.addUsers(&claims); err != nil {
		return err
	}
	c.warn(os.Stderr, keys)
	text, err := token.Sign(keys[0], claims)
	if err != nil {
		return err
	}
	fmt.Println(text)
	return nil
}

// warn says what may be a surprise of the keys that were read: their number, since a comma in a key
// makes two of it, and that the first is short.
func (c tokenCmd) warn(w io.Writer, keys []string) {
	source := secretSource(signingKeyEnv, c.SigningKeyFile, false)
	if len(keys) > 1 {
		fmt.Fprintf(w, "rollcall: %s read from %s, separated by commas or lines; the first signs\n",
			counted(len(keys), "signing key"), source)
	}
	if len(keys[0]) < leastSecretBytes {
		fmt.Fprintf(w, "rollcall: the signing key has %d bytes; a server without --dev refuses fewer "+
			"than %d\n", len(keys[0]), leastSecretBytes)
	}
}

// addUsers lets the token see more than its user.
func (c tokenCmd) addUsers(claims *token.Claims) error {
	for _, contact := range c.Contact {
		claims.UserIDs = append(claims.UserIDs, contact.String())
	}
	if c.List != "" {
		users, err := readUsers(c.List)
		if err != nil {
			return fmt.Errorf("--list: %w", err)
		}
		claims.UsersSHA256 = token.UsersSHA256(users)
	}
	if c.Any {
		claims.Scope = append(claims.Scope, wire.ScopeReadAny)
	}
	return nil
}

// readUsers reads the ids in a file, each once.
func readUsers(name string) (users []uuid.UUID, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	apart := func(r rune) bool { return unicode.IsSpace(r) || r == ',' }
	for word := range strings.FieldsFuncSeq(string(text), apart) {
		user, form := wire.ParseID([]byte(word))
		if form == wire.IDInvalid {
			return nil, fmt.Errorf("%s: %q is no UUID", name, word)
		}
		users = append(users, user)
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s has no user", name)
	}
	slices.SortFunc(users, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(users), nil
}

func streamToken(key string, user, device uuid.UUID, ttl time.Duration) (string, error) {
	return token.Sign(key, streamClaims(user, device, ttl))
}

func streamClaims(user, device uuid.UUID, ttl time.Duration) token.Claims {
	now := time.Now()
	return token.Claims{
		TokenID:    uuid.NewString(),
		UserID:     user.String(),
		DeviceID:   device.String(),
		Scope:      []string{wire.ScopeRead},
		ExpMS:      now.Add(ttl).UnixMilli(),
		IssuedAtMS: now.UnixMilli(),
	}
}
