package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The environment variables of the original service, kept so that a deployment can move without
// touching its secrets.
const (
	ingestTokenEnv = "PRESENCE_DO_INGEST_TOKEN"
	signingKeyEnv  = "PRESENCE_DO_TOKEN_SIGNING_KEY"
)

// readSecrets returns the secrets of a variable or of a file: separated by commas or line ends,
// trimmed, blank ones left out. Several serve a rotation. The first signing key signs.
func readSecrets(env, file string) ([]string, error) {
	text := os.Getenv(env)
	if file != "" {
		if strings.TrimSpace(text) != "" {
			return nil, fmt.Errorf("both %s and the file %s are given: unset one", env, file)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("secret file: %w", err)
		}
		text = string(b)
	}
	var secrets []string
	separates := func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }
	for _, s := range strings.FieldsFunc(text, separates) {
		if s = strings.TrimSpace(s); s != "" {
			secrets = append(secrets, s)
		}
	}
	if file != "" && len(secrets) == 0 {
		return nil, fmt.Errorf("secret file %s is empty", file)
	}
	return secrets, nil
}

const (
	// leastSecretBytes is the least length of a secret. A shorter one is found by trying.
	leastSecretBytes = 16
	// strongSecretBytes is the length below which a secret is warned about: an HMAC-SHA256 key must
	// not be shorter than the hash (RFC 7518, section 3.2).
	strongSecretBytes = 32
)

// refuseShort reports every secret of a list that is too short to be one. It quotes none.
func refuseShort(what string, secrets []string) error {
	var errs []error
	for i, s := range secrets {
		if len(s) < leastSecretBytes {
			errs = append(errs, fmt.Errorf("%s %d of %d has %d bytes, fewer than %d: make one with "+
				"openssl rand -hex 32 (a comma or a line end begins the next one; --dev takes "+
				"short ones)", what, i+1, len(secrets), len(s), leastSecretBytes))
		}
	}
	return errors.Join(errs...)
}

// countShort returns how many secrets are shorter than is recommended.
func countShort(secrets []string) (n int) {
	for _, s := range secrets {
		if len(s) < strongSecretBytes {
			n++
		}
	}
	return n
}

// throwAwaySecret is 256 random bits as text.
func throwAwaySecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
