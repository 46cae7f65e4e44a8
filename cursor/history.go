package cursor

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/google/uuid"
)

// History says which cursors bring a client up to date: it makes them, reads them, and knows the
// epochs and what was forgotten. Any goroutine may use it; Load and Begin belong to its owner, one
// call at a time.
type History struct {
	seed      uint32    // of the check
	users     [2]uint64 // keys of User
	hash      func(user uuid.UUID) uint64
	committed func() uint64

	// epochs is what is known of the epochs, the running one included; nil before Begin. What it
	// points to does not change.
	epochs atomic.Pointer[epochs]
	loaded []Epoch // of earlier lives: the owner's, between Load and Begin

	forgotten forgotten
}

// Options of a History.
type Options struct {
	// Secret is what check and hashes depend on, so that other histories have others. Keep it with
	// the log: another secret, and no cursor is honoured any more.
	Secret []byte
	// Hash is what a user is known by whose device was forgotten. It must be the same in each life.
	// Required.
	Hash func(user uuid.UUID) uint64
	// Committed returns the highest LSN that may be shown. Required.
	Committed func() uint64
}

// New returns a history without an epoch: it honours nothing until Begin.
func New(o Options) *History {
	sum := sha256.Sum256(append([]byte("rollcall: cursors of a history\x00"), o.Secret...))
	return &History{
		seed: binary.LittleEndian.Uint32(sum[:]),
		users: [2]uint64{
			binary.LittleEndian.Uint64(sum[8:]), binary.LittleEndian.Uint64(sum[16:]),
		},
		hash: o.Hash, committed: o.Committed,
	}
}

// User is a user in List, 8 bytes that are the same in every life. Users that differ have the same
// number by chance alone.
func (h *History) User(user uuid.UUID) uint64 {
	// Folded multiplication, as in wyhash (https://github.com/wangyi-fudan/wyhash).
	hi, lo := bits.Mul64(
		binary.LittleEndian.Uint64(user[:8])^h.users[0],
		binary.LittleEndian.Uint64(user[8:])^h.users[1],
	)
	hi, lo = bits.Mul64(hi^lo^h.users[0], 0x9e3779b97f4a7c15^h.users[1])
	return hi ^ lo
}

// List is the digest of a set of users, whatever their order: the sum of User over them, each
// once. It is the same in every life.
func (h *History) List(users []uuid.UUID) (digest uint64) {
	for _, user := range users {
		digest += h.User(user)
	}
	return digest
}
