package token

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Shared is a list of secrets, each of which is a token by itself. It keeps digests, which are all
// of one length, so that a comparison tells nothing of a secret's. It does not change, and any
// goroutine may use it.
type Shared struct{ digests []digest }

// digest is SHA-256 of a secret, in words: comparing by the byte takes as long as hashing.
type digest [sha256.Size / 8]uint64

func digestOf(text []byte) (d digest) {
	sum := sha256.Sum256(text)
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return d
}

// NewShared makes the list. CheckShared says which secrets it could never match.
func NewShared(secrets []string) Shared {
	digests := make([]digest, len(secrets))
	for i, secret := range secrets {
		digests[i] = digestOf([]byte(secret))
	}
	return Shared{digests}
}

// CheckShared reports every secret that no Authorization header can carry, by its place and what it
// is. It quotes none.
func CheckShared(what string, secrets []string) error {
	var errs []error
	for i, secret := range secrets {
		if secret == "" || strings.ContainsFunc(secret, notInHeader) {
			errs = append(errs, fmt.Errorf("token: %s %d can never match: it is empty or has "+
				"white space or a character outside visible ASCII", what, i+1))
		}
	}
	return errors.Join(errs...)
}

func notInHeader(r rune) bool { return r <= ' ' || r >= 0x7f }

// None reports whether the list is empty.
func (s Shared) None() bool { return len(s.digests) == 0 }

// Has compares text with every secret, without a branch that depends on one (see the package).
func (s Shared) Has(text []byte) bool {
	d := digestOf(text)
	missing := uint64(1)
	for i := range s.digests {
		var differ uint64
		for j, word := range s.digests[i] {
			differ |= d[j] ^ word
		}
		missing &= (differ | -differ) >> 63 // 0 if no bit differs, else 1
	}
	return missing == 0
}
