package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"rollcall/token"
	"rollcall/wire"

	"github.com/google/uuid"
)

type tokenCmd struct {
	User           uuid.UUID     `required:"" placeholder:"UUID" help:"The user whose devices the token may see."`
	Device         uuid.UUID     `placeholder:"UUID" help:"The device that the token is for; it is recorded and not checked. Default: a random one."`
	TTL            time.Duration `default:"15m" help:"How long the token is valid. A stream ends when its token does."`
	SigningKeyFile string        `type:"path" placeholder:"FILE" help:"Read the signing key from FILE. The first key signs."`
}

// Help is what `rollcall token --help` says beyond the flags.
func (tokenCmd) Help() string {
	return `The key is read from ` + signingKeyEnv + ` (or --signing-key-file).
It must be one that the server has.
The token goes to standard output, alone:

  curl -N -H "Authorization: Bearer $(rollcall token --user UUID)" \
    "http://127.0.0.1:8787` + wire.StreamPath + `?user_id=UUID"`
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
	c.warn(os.Stderr, keys)
	text, err := streamToken(keys[0], c.User, c.Device, c.TTL)
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

func streamToken(key string, user, device uuid.UUID, ttl time.Duration) (string, error) {
	now := time.Now()
	return token.Sign(key, token.Claims{
		TokenID:    uuid.NewString(),
		UserID:     user.String(),
		DeviceID:   device.String(),
		Scope:      []string{wire.ScopeRead},
		ExpMS:      now.Add(ttl).UnixMilli(),
		IssuedAtMS: now.UnixMilli(),
	})
}
