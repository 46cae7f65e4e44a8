package table

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"

	"github.com/google/uuid"

	"rollcall/record"
)

// entryBytes is the size of an Entry.
const entryBytes = 96

// MaxInteger is the largest seq, sent-at and TTL that an entry holds: what a JSON number carries
// exactly.
const MaxInteger = 1<<53 - 1

// maxUpdatedAt is the largest UpdatedAtMS: 48 bits of milliseconds end in the year 10889. Later
// times saturate.
const maxUpdatedAt = 1<<48 - 1

// The head word: bit 0 says that the entry is claimed, 9 bits of version change with every release
// that changed a word, and 54 bits hold seq+1, where 0 says that nothing was accepted yet.
const (
	claimBit    uint64 = 1
	versionUnit uint64 = 1 << 1
	versionMask uint64 = (1<<9 - 1) << 1
	seqShift           = 10
)

// The low bits of the ttl word; the TTL stands above them.
const (
	onlineBit  uint64 = 1 << 0
	expiredBit uint64 = 1 << 1
	ttlShift          = 2
)

// A source's id has 32 bits, in what three words have left above or below their number: 16 bits in
// updatedSource, 8 in sentAt, 8 in heartbeatAt.
const (
	sourceShift  = 56
	integerMask  = 1<<sourceShift - 1
	sourceSentAt = 16 // the lowest bit of the source that is in sentAt
	sourceHeart  = 24 // the lowest bit that is in heartbeatAt
)

// spinsBeforeYield is how often a claimed entry is looked at before the processor is offered to
// others. A claim is held for some tens of nanoseconds, so that a few looks are enough when its
// owner runs on another processor, and no number of looks is enough when the owner was preempted:
// it needs this very processor, perhaps.
const spinsBeforeYield = 16

// State is what an entry knows of its device, unpacked: what a record says, with numbers of at most
// MaxInteger and an UpdatedAtMS of 48 bits, and what only the table knows.
//
// While the device is online SeenAtMS is UpdatedAtMS, and whatever else Commit is given is lost.
// While it is offline it has no deadline.
type State struct {
	record.State
	LSN           uint64 // of the last change; 0: no state yet
	DeadlineNanos int64  // monotonic; of an offline device 0
	Source        uint32 // id of the source's text; 0: none
}

// Entry is one device's state: twelve words, 96 bytes, never moved while the table is open. Any
// goroutine may call its methods, except those that say "owner": they belong to the goroutine whose
// Claim returned true, until its Commit, Unclaim or Table.Remove.
//
// The layout is fixed (tested) so that what an accepted heartbeat touches lies in two neighbouring
// cache lines.
type Entry struct {
	// user and device are the owner's ids as two words each, all zero in a free slot. They change
	// only under the shard's mutex together with the claim: a holder of either sees them whole.
	// Find reads them without: the index word that led it here was stored after them, and a slot
	// that was reused since is found out by Claim or Is.
	user   [2]atomic.Uint64
	device [2]atomic.Uint64

	// head is claim, version and seq (see the constants). The compare-and-swap in tryClaim acquires
	// every word below, the store in release publishes them (T2). While a goroutine owns the claim
	// the old seq stays, so that LastSeq never has to wait.
	head atomic.Uint64

	// lsn is the LSN of the last change, 0 before the first. Written by the claim's owner only,
	// after the other words: a reader that finds the same lsn before and after has read words of
	// one commit, however often version went round meanwhile (T3).
	lsn atomic.Uint64

	// The rest of the state: written by the claim's owner only, published by head.

	// deadline is, of an online device, the deadline in monotonic nanoseconds; the wheel's loop
	// reads it alone. An offline one has none, so the word holds -1-SeenAtMS: a deadline that has
	// always passed, so that the loop looks at the entry and finds out.
	deadline      atomic.Int64
	ttl           atomic.Uint64 // TTL << 2 | expired | online
	sentAt        atomic.Uint64 // source, bits 16 to 23 << 56 | sent-at
	heartbeatAt   atomic.Uint64 // source, bits 24 to 31 << 56 | heartbeat-at
	updatedSource atomic.Uint64 // updated-at << 16 | source, bits 0 to 15

	// armed is the tick of the wheel item that counts, 0 for none. Not part of the state: it pairs
	// with nothing but itself.
	armed atomic.Uint32

	// next is the Ref of the user's next device by first sight, the last one's next being the
	// first; of a user with a roster the place there; in a free slot the next free slot. Guarded by
	// the shard's mu; atomic since FindDevices prefetches what it names without it.
	next atomic.Uint32
}

// IDs returns whose entry this is: both nil in a free slot. Under the claim they hold; anywhere
// else they may be torn by a removal or stale at once, so that Read is the method to use there.
func (e *Entry) IDs() (user, device uuid.UUID) {
	return unwords(e.user[0].Load(), e.user[1].Load()),
		unwords(e.device[0].Load(), e.device[1].Load())
}

// Is reports whether the entry belongs to the device now. A goroutine without the claim learns from
// it that what it loaded before, LastSeq say, was the device's: the entry belonged to it when it
// was found and still does.
func (e *Entry) Is(user, device uuid.UUID) bool {
	return e.holds(wordsOf(&user), wordsOf(&device))
}

func (e *Entry) holds(user, device words) bool {
	return e.device[0].Load() == device.low && e.device[1].Load() == device.high &&
		e.holdsUser(user)
}

func (e *Entry) holdsUser(user words) bool {
	return e.user[0].Load() == user.low && e.user[1].Load() == user.high
}

// LastSeq returns the last accepted seq by one atomic load, claimed or not; ok is false when
// nothing was accepted yet. Refuse a heartbeat on it only when Is holds afterwards, since the slot
// may have become another device's. The LSN that accepted this seq is not above what a later call
// of LSN returns.
func (e *Entry) LastSeq() (seq uint64, ok bool) {
	next := e.head.Load() >> seqShift
	return next - 1, next != 0
}

// LSN returns the LSN of the last change, 0 before the first. It may run ahead of LastSeq and Load
// while a goroutine owns the claim.
func (e *Entry) LSN() uint64 { return e.lsn.Load() }

// Unchanged reports whether the entry has no change above an LSN, among those whose records were
// appended before the call. A claimed entry may have one: its owner appends the record first, and
// may be preempted for longer than the record's commit takes.
func (e *Entry) Unchanged(after uint64) bool {
	// The head first: once it is seen without the claim, lsn is what its last owner left.
	return e.head.Load()&claimBit == 0 && e.lsn.Load() <= after
}

// DeadlineNanos returns the deadline by one atomic load. It may be newer than what a Load before it
// returned. Of an offline device it is some negative number.
func (e *Entry) DeadlineNanos() int64 { return e.deadline.Load() }

// Armed returns the tick (its low 32 bits) of the wheel item that counts for this entry, 0 for
// none.
func (e *Entry) Armed() uint32 { return e.armed.Load() }

// ArmedCAS replaces the armed tick if it is still old.
func (e *Entry) ArmedCAS(old, new uint32) bool { return e.armed.CompareAndSwap(old, new) }

func (e *Entry) nextRef() Ref  { return Ref(e.next.Load()) }
func (e *Entry) setNext(r Ref) { e.next.Store(uint32(r)) }

// Claim makes the caller the owner of the entry if it belongs to the device. It spins while another
// goroutine owns it and yields in between; the owner, in turn, must neither block nor do I/O (I1).
// False means that the slot was removed or reused: look up again.
//
// The ids are compared after the claim is held, because a lookup holds nothing:
//
//	heartbeat of A                  forgetting A                    first heartbeat of B
//	Find(A) = slot 7
//	                                Remove(slot 7)
//	                                                                FindOrInsert(B) = slot 7
//	Claim(A) takes slot 7,
//	sees B's ids, gives it back
func (e *Entry) Claim(user, device uuid.UUID) bool {
	e.acquire()
	if e.Is(user, device) {
		return true
	}
	e.Unclaim()
	return false
}

// acquire takes the claim, whichever device the entry belongs to.
func (e *Entry) acquire() {
	for spins := 1; !e.tryClaim(); spins++ {
		pause(spins)
	}
}

func (e *Entry) tryClaim() bool {
	h := e.head.Load()
	return h&claimBit == 0 && e.head.CompareAndSwap(h, h|claimBit)
}

// pause lets others run after every few spins.
func pause(spins int) {
	if spins%spinsBeforeYield == 0 {
		runtime.Gosched()
	}
}

// Held returns the state to its owner. Owner only.
func (e *Entry) Held() State { return e.unpack(e.glance()) }

// Commit stores s and gives the claim back: readers see all of s or nothing of it. s.LSN must not
// be 0 nor below the entry's LSN (I1). Owner only.
func (e *Entry) Commit(s *State) {
	if s.Seq > MaxInteger || s.SentAtMS > MaxInteger || s.HeartbeatAtMS > MaxInteger ||
		s.TTLMS > MaxInteger {
		panic("bug: table: commit of a number above 2^53-1")
	}
	if s.LSN < max(1, e.lsn.Load()) {
		panic("bug: table: commit with an LSN that does not grow")
	}
	e.pack(s)
	e.release(s.Seq + 1)
}

// Unclaim gives the claim back and leaves the state as it was, version included: no word has
// changed, so that a reader that looked before and looks after has read one state. Owner only.
func (e *Entry) Unclaim() {
	h := e.head.Load()
	if h&claimBit == 0 {
		panic("bug: table: release of an entry that is not claimed")
	}
	e.head.Store(h &^ claimBit)
}

// release gives the claim back with seq+1 (0: none) and the next version. Owner only.
func (e *Entry) release(next uint64) {
	h := e.head.Load()
	if h&claimBit == 0 {
		panic("bug: table: release of an entry that is not claimed")
	}
	e.head.Store(next<<seqShift | (h+versionUnit)&versionMask)
}

// clear makes the entry one that was never accepted anything and gives the claim back. Owner only.
func (e *Entry) clear() {
	e.armed.Store(0)
	e.pack(&State{})
	e.release(0)
}

// own gives the entry, which must be free of state and claimed, to a device, or frees it with zero
// ids, and gives the claim back. Shard's mu held. Owner only.
func (e *Entry) own(user, device words) {
	e.user[0].Store(user.low)
	e.user[1].Store(user.high)
	e.device[0].Store(device.low)
	e.device[1].Store(device.high)
	e.release(0)
}

// pack stores every word that differs, lsn last (T3). An atomic store costs some 5 ns, a load and a
// comparison nearly nothing, and from heartbeat to heartbeat TTL and flags stay.
func (e *Entry) pack(s *State) {
	deadline := s.DeadlineNanos
	if !s.Online {
		deadline = -1 - int64(min(s.SeenAtMS, maxUpdatedAt))
	}
	if e.deadline.Load() != deadline {
		e.deadline.Store(deadline)
	}
	set(&e.ttl, s.TTLMS<<ttlShift|bit(s.Online, onlineBit)|bit(s.Expired, expiredBit))
	set(&e.sentAt, s.SentAtMS|uint64(uint8(s.Source>>sourceSentAt))<<sourceShift)
	set(&e.heartbeatAt, s.HeartbeatAtMS|uint64(s.Source>>sourceHeart)<<sourceShift)
	set(&e.updatedSource, min(s.UpdatedAtMS, maxUpdatedAt)<<16|uint64(uint16(s.Source)))
	set(&e.lsn, s.LSN)
}

func set(w *atomic.Uint64, v uint64) {
	if w.Load() != v {
		w.Store(v)
	}
}

func bit(on bool, b uint64) uint64 {
	if on {
		return b
	}
	return 0
}

// glance is what a reader without the claim saw of an entry before it loaded the words.
type glance struct{ head, lsn uint64 }

func (e *Entry) glance() glance { return glance{head: e.head.Load(), lsn: e.lsn.Load()} }

// holds reports that the words loaded since the glance are of one commit.
//
// Equal heads are not enough for a reader that is preempted in between: version has 9 bits, and 512
// commits later it is the same. Equal LSNs close that: they only grow (T3).
func (g glance) holds(e *Entry) bool {
	return g.head&claimBit == 0 && e.head.Load() == g.head && e.lsn.Load() == g.lsn
}

// unpack loads the words that go with a glance. Without the claim they may be of several commits
// until the glance holds.
func (e *Entry) unpack(g glance) (s State) {
	if g.lsn == 0 {
		return s
	}
	// Field by field: the compiler would make a literal beside s and copy it.
	ttl, updated := e.ttl.Load(), e.updatedSource.Load()
	sentAt, heartbeatAt := e.sentAt.Load(), e.heartbeatAt.Load()
	s.Seq = g.head>>seqShift - 1
	s.SentAtMS = sentAt & integerMask
	s.HeartbeatAtMS = heartbeatAt & integerMask
	s.UpdatedAtMS = updated >> 16
	s.TTLMS = ttl >> ttlShift
	s.Online = ttl&onlineBit != 0
	s.Expired = ttl&expiredBit != 0
	s.LSN = g.lsn
	if deadline := e.deadline.Load(); s.Online {
		s.DeadlineNanos, s.SeenAtMS = deadline, s.UpdatedAtMS
	} else {
		s.SeenAtMS = uint64(-1 - deadline)
	}
	s.Source = uint32(uint16(updated)) | uint32(sentAt>>sourceShift)<<sourceSentAt |
		uint32(heartbeatAt>>sourceShift)<<sourceHeart
	return s
}

// Load returns the state of one moment; false: no state yet. It takes no claim (a sequence lock)
// but waits while another goroutine owns it, yielding, and starts again when the entry changed
// under it. The caller asks Is afterwards, or uses Read.
func (e *Entry) Load() (State, bool) {
	for spins := 1; ; spins++ {
		g := e.glance()
		if s := e.unpack(g); g.holds(e) {
			return s, g.lsn != 0
		}
		pause(spins)
	}
}

// Read returns ids and state of one moment, otherwise as Load; false: no state yet, or the slot is
// free.
func (e *Entry) Read() (user, device uuid.UUID, s State, ok bool) {
	for spins := 1; ; spins++ {
		g := e.glance()
		user, device = e.IDs()
		if s = e.unpack(g); g.holds(e) {
			return user, device, s, g.lsn != 0
		}
		pause(spins)
	}
}

// words is an id as the two words in which entries compare it.
type words struct{ low, high uint64 } // a struct, since the compiler keeps no array in registers

func wordsOf(id *uuid.UUID) words {
	return words{binary.LittleEndian.Uint64(id[:8]), binary.LittleEndian.Uint64(id[8:])}
}

func unwords(low, high uint64) (id uuid.UUID) {
	binary.LittleEndian.PutUint64(id[:8], low)
	binary.LittleEndian.PutUint64(id[8:], high)
	return id
}
