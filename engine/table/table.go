package table

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/google/uuid"

	"rollcall/internal/option"
)

// ErrFull says that the table holds MaxDevices already, or that no slot number is left.
var ErrFull = errors.New("table: full")

// ErrUserFull says that the user has MaxDevicesPerUser devices already.
var ErrUserFull = errors.New("table: the user has as many devices as one may have")

// Ref names a slot: its number + 1, so that 0 is none. It stays the device's until the device is
// removed.
type Ref uint32

// Options of a Table. The zero value works.
type Options struct {
	// Shards is a power of two. More shards make growth of one shorter and first sights of
	// different users meet less; each costs 88 bytes and up to 63 unused slots. Default: 1024.
	Shards int

	// MaxDevices bounds the devices, to 1<<31 at most. One more: ErrFull. Default: 1<<31.
	MaxDevices int

	// MaxDevicesPerUser bounds the devices of one user. One more: ErrUserFull. Default: 0, only
	// MaxDevices counts.
	MaxDevicesPerUser int

	// Budget bounds the devices of several tables together. Default: none.
	Budget *Budget

	// Key of the hash. A key that is kept lets entries come back to their shards. Default: a random
	// one.
	Key [4]uint64

	// Hash replaces the keyed hash, for tests. userHash must depend on the user alone. Default: the
	// keyed hash.
	Hash func(user, device uuid.UUID) (userHash, deviceHash uint64)
}

const maxDevices = 1 << 31

// Check reports every problem of the options at once. New panics on them.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	option.Default(&o.Shards, 1024)
	option.Default(&o.Key, RandomKey())

	problems := option.Problems{Package: "table"}
	problems.When(o.Shards < 0 || o.Shards&(o.Shards-1) != 0,
		"Shards is %d, not a power of two", o.Shards)
	option.NotNegative(&problems, "MaxDevices", o.MaxDevices)
	option.NotNegative(&problems, "MaxDevicesPerUser", o.MaxDevicesPerUser)
	return o, problems.Err()
}

// Table holds the state of every known device. Any goroutine may call its methods.
type Table struct {
	secret     secret
	testHash   func(user, device uuid.UUID) (userHash, deviceHash uint64) // nil: secret's
	shards     []shard
	shardShift int
	aggregates []aggregates // one for each shard
	slab       *slab
	blocks     blocks // memory of large indexes
	maxDevices int64
	maxPerUser int     // devices
	budget     *Budget // nil: none

	devices atomic.Int64 // entries that belong to a device, and places taken for some (takePlace)
	users   atomic.Int64 // users with at least one device
}

// New makes an empty table. It panics when the options have a problem.
func New(o Options) *Table {
	o, err := o.withDefaults()
	if err != nil {
		panic("bug: " + err.Error())
	}
	limit := int64(maxDevices)
	if o.MaxDevices > 0 {
		limit = min(limit, int64(o.MaxDevices))
	}
	t := &Table{
		secret:     o.Key,
		testHash:   o.Hash,
		shards:     make([]shard, o.Shards),
		aggregates: make([]aggregates, o.Shards),
		shardShift: 64 - bits.TrailingZeros(uint(o.Shards)),
		slab:       newSlab(uint64(limit), uint64(o.Shards)*maxRun),
		maxDevices: limit,
		maxPerUser: cmp.Or(o.MaxDevicesPerUser, math.MaxInt),
		budget:     o.Budget,
	}
	for i := range t.shards {
		t.shards[i].devices.Store(noWords)
		t.shards[i].users.Store(noWords)
	}
	return t
}

// Close gives the entries' memory back, and their places in the budget. The table and its entries
// must not be used any more.
func (t *Table) Close() {
	t.slab.close()
	t.budget.give(t.devices.Swap(0))
}

// takePlace reserves a place for one more device, with over also above the bounds; false: there is
// none.
func (t *Table) takePlace(over bool) bool {
	if t.devices.Add(1) > t.maxDevices && !over || !t.budget.take(over) {
		t.devices.Add(-1)
		return false
	}
	return true
}

func (t *Table) givePlace() {
	t.devices.Add(-1)
	t.budget.give(1)
}

// secret is the key of a hash: ids are chosen by their senders, which must not be able to choose
// collisions. The hash folds 128-bit products, the construction of wyhash (Wang Yi,
// github.com/wangyi-fudan/wyhash).
type secret [4]uint64

func (s *secret) user(u words) uint64 {
	return fold(fold(u.low^s[0], u.high^s[1])^s[2], s[3]|1)
}

// device hashes a device of the user with this hash.
func (s *secret) device(d words, userHash uint64) uint64 {
	return fold(fold(d.low^s[2], d.high^s[3])^userHash, s[1]|1)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// RandomKey returns a new key for Options.Key.
func RandomKey() (key [4]uint64) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	for i := range key {
		key[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return key
}

// key is a device's ids as entries hold them, with their hashes.
type key struct {
	user, device         words
	userHash, deviceHash uint64
}

func (k *key) deviceTag() uint32 { return uint32(k.deviceHash) }
func (k *key) userTag() uint32   { return uint32(k.userHash) }

// setKey fills k. It takes pointers since the compiler copies arrays through memory.
func (t *Table) setKey(k *key, user, device *uuid.UUID) {
	k.user, k.device = wordsOf(user), wordsOf(device)
	if t.testHash != nil {
		k.userHash, k.deviceHash = t.testHash(*user, *device)
		return
	}
	k.userHash = t.secret.user(k.user)
	k.deviceHash = t.secret.device(k.device, k.userHash)
}

func (t *Table) key(user, device uuid.UUID) (k key) {
	t.setKey(&k, &user, &device)
	return k
}

// shard returns the shard of a user. Only the user decides, by the upper bits of its hash; tags are
// made of lower ones.
func (t *Table) shard(k *key) *shard { return &t.shards[k.userHash>>t.shardShift] }

// Find returns the device's entry, or 0 and nil when it is unknown. It takes no lock. An insert
// that runs at the same time may be missed, one that returned before is not.
func (t *Table) Find(user, device uuid.UUID) (Ref, *Entry) {
	k := t.key(user, device)
	return t.shard(&k).find(t.slab, &k)
}

// FindOrInsert returns the device's entry and makes one at first sight: it has no state yet and
// readers skip it. It takes the shard's mutex in any case, so it is for a device that Find did not
// find a moment ago. ErrUserFull over MaxDevicesPerUser; ErrFull over MaxDevices or out of slot
// numbers; any other error says that the system gave no memory.
func (t *Table) FindOrInsert(user, device uuid.UUID) (Ref, *Entry, error) {
	return t.findOrInsert(user, device, false)
}

// Restore is FindOrInsert for a device that was known before a restart: it comes in also over
// the bounds. ErrFull: no slot number is left.
func (t *Table) Restore(user, device uuid.UUID) (Ref, *Entry, error) {
	return t.findOrInsert(user, device, true)
}

func (t *Table) findOrInsert(user, device uuid.UUID, over bool) (Ref, *Entry, error) {
	k := t.key(user, device)
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Under the mutex, since a look without it may have gone to an index that was just replaced, or
	// been overtaken.
	if r, e := s.find(t.slab, &k); e != nil {
		return r, e, nil
	}
	return s.insertLocked(t, &k, over)
}

// Entry returns the entry of a ref that this table handed out. It may belong to another device by
// now.
func (t *Table) Entry(r Ref) *Entry { return t.slab.entry(r) }

// Devices appends the refs of the user's devices, in no particular order. It takes the shard's
// mutex for as long as it takes to copy them, and looks at no entry of a user with many: the caller
// does, with Read, as slowly as it likes. A ref may be another device's by then. A device that is
// there from this call until its ref is looked at is seen once; one that comes later is not seen.
func (t *Table) Devices(user uuid.UUID, dst []Ref) []Ref {
	k := t.key(user, uuid.Nil)
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.devicesLocked(t.slab, &k, dst)
}

// Count is how many devices the user has. It takes the shard's mutex, and looks at no entry of a
// user with many.
func (t *Table) Count(user uuid.UUID) int {
	k := t.key(user, uuid.Nil)
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countLocked(t.slab, &k)
}

// Range calls fn for every entry, in no order, until it returns false. It takes one shard's mutex
// at a time and not while it calls fn, which may use the table as it likes. A device that is there
// all the while is seen once, one that comes meanwhile perhaps, and one that goes may be replaced
// by another in its slot: fn uses Read, or Claim.
func (t *Table) Range(fn func(Ref, *Entry) bool) { t.RangeShards(0, len(t.shards), fn) }

// Shards returns the number of shards. A user's shard is the upper bits of UserHash.
func (t *Table) Shards() int { return len(t.shards) }

// UserHash returns the hash that decides the user's shard.
func (t *Table) UserHash(user uuid.UUID) uint64 {
	return t.key(user, uuid.Nil).userHash
}

// RangeShards is Range over the shards from up to, but not including, to.
func (t *Table) RangeShards(from, to int, fn func(Ref, *Entry) bool) {
	var refs []Ref
	for i := from; i < to; i++ {
		s := &t.shards[i]
		s.mu.Lock()
		refs = s.refsLocked(refs[:0])
		s.mu.Unlock()
		for _, r := range refs {
			if !fn(r, t.slab.entry(r)) {
				return
			}
		}
	}
}

// Remove forgets the device of an entry whose claim the caller owns, and gives the claim back. The
// slot is used again.
//
// The state goes under the claim, the entry under the mutex, and the claim is given back in
// between: a goroutine that waits for a claim may hold the mutex (T4). A heartbeat that gets in
// between finds an entry without a state, as at first sight, and if it is accepted the entry stays.
func (t *Table) Remove(r Ref, e *Entry) {
	user, device := e.IDs()
	e.clear()
	k := t.key(user, device)
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(t, &k, r, e)
}

// Len returns the number of devices, those without a state included.
func (t *Table) Len() int { return int(t.devices.Load()) }

// Over returns how many more devices there are than MaxDevices and Budget allow: those that Restore
// brought.
func (t *Table) Over() int {
	return int(max(0, t.devices.Load()-t.maxDevices, t.budget.over()))
}

// Full reports whether there is no place for one more device now.
func (t *Table) Full() bool {
	return t.devices.Load() >= t.maxDevices || t.budget != nil && t.budget.Left() == 0
}

// MaxDevices returns how many devices there may be. What a shared budget has left changes.
func (t *Table) MaxDevices() int {
	if t.budget == nil {
		return int(t.maxDevices)
	}
	return int(min(t.maxDevices, max(0, t.devices.Load()-t.budget.over())))
}

// Users returns the number of users that have a device.
func (t *Table) Users() int { return int(t.users.Load()) }

// Stats is what a table takes.
type Stats struct {
	Devices    int
	Users      int
	Slots      int   // handed to shards
	FreeSlots  int   // of these, in no use: the rest of a run, or removed
	SlabBytes  int64 // mapped for entries
	IndexBytes int64 // on the Go heap
}

// Stats counts. It takes each shard's mutex for a moment.
func (t *Table) Stats() Stats {
	st := Stats{Devices: t.Len(), Users: t.Users()}
	slots, extents := t.slab.handedOut()
	st.Slots = slots
	st.SlabBytes = int64(extents) * int64(extentSlots) * entryBytes
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		st.FreeSlots += s.freeSlots + s.runSlots
		st.IndexBytes += 8 * int64(len(s.devices.Load().words)+len(s.users.Load().words))
		for _, ro := range s.rosters {
			st.IndexBytes += 4 * int64(cap(ro.refs))
		}
		s.mu.Unlock()
	}
	return st
}
