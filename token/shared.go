package token

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// Shared is a list of secrets, each of which is a token by itself. It keeps digests, which are all
// of one length, so that a comparison tells nothing of a secret's. It does not change, and any
// goroutine may use it.
type Shared struct{ digests [][sha256.Size]byte }

// NewShared makes the list. CheckShared says which secrets it could never match.
func NewShared(secrets []string) Shared {
	digests := make([][sha256.Size]byte, len(secrets))
	for i, secret := range secrets {
		digests[i] = sha256.Sum256([]byte(secret))
	}
	return Shared{digests}
}

// CheckShared reports every secret that no Authorization header can carry. It quotes none.
func CheckShared(secrets []string) error {
	var errs []error
	for i, secret := range secrets {
		if secret == "" || strings.ContainsFunc(secret, notInHeader) {
			errs = append(errs, fmt.Errorf("token: ingest token %d can never match: it is empty or"+
				" has white space or a character outside visible ASCII", i+1))
		}
	}
	return errors.Join(errs...)
}

func notInHeader(r rune) bool { return r <= ' ' || r >= 0x7f }

// None reports whether the list is empty.
func (s Shared) None() bool { return len(s.digests) == 0 }

// Has compares text with every secret (see the package).
func (s Shared) Has(text []byte) bool {
	digest := sha256.Sum256(text)
	found := 0
	for i := range s.digests {
		found |= subtle.ConstantTimeCompare(digest[:], s.digests[i][:])
	}
	return found == 1
}
