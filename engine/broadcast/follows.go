package broadcast

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/google/uuid"
)

// hashSeed makes the hash of users another one in each process.
var hashSeed = maphash.MakeSeed()

// hashOf is the hash of a user: workers go by its low bits, buckets of follows by its high ones.
func hashOf(user uuid.UUID) uint64 { return maphash.Bytes(hashSeed, user[:]) }

const (
	followBits    = 16
	followBuckets = 1 << followBits
)

// follows says whether a user may be one whom a worker's streams follow: yes for each of them, and
// for few others while streams are fewer than buckets. So a commit loop need not copy events that
// no stream will get. It is a Bloom filter of one hash, with counts (Fan et al., "Summary cache",
// 2000, https://doi.org/10.1109/90.851975).
type follows struct {
	counts []uint32 // streams by bucket; nil: none so far; guarded by the inbox's mu
	// bits are the buckets that have a stream. They are stored under the inbox's mu. A commit loop
	// loads them without it, after its inbox.begin has taken mu: what was stored before that, it
	// sees, and what comes later is no matter of its batch.
	bits [followBuckets / 64]atomic.Uint64
}

// add counts a stream of a user.
func (f *follows) add(hash uint64) {
	if f.counts == nil {
		f.counts = make([]uint32, followBuckets)
	}
	i := hash >> (64 - followBits)
	if f.counts[i]++; f.counts[i] == 1 {
		f.bits[i/64].Or(1 << (i % 64))
	}
}

// remove takes back an add of the same hash.
func (f *follows) remove(hash uint64) {
	i := hash >> (64 - followBits)
	if f.counts[i]--; f.counts[i] == 0 {
		f.bits[i/64].And(^uint64(1 << (i % 64)))
	}
}

// has reports whether a user with this hash may have a stream.
func (f *follows) has(hash uint64) bool {
	i := hash >> (64 - followBits)
	return f.bits[i/64].Load()&(1<<(i%64)) != 0
}
