package main

import (
	"crypto/rand"
	"encoding/base64"
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

// throwAwaySecret is 192 random bits as text.
func throwAwaySecret() string {
	b := make([]byte, 24)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
