// Package table holds the state of every known device in memory and answers two questions: this
// device's entry (every heartbeat asks), and this user's devices (every new stream asks).
//
// # Terms
//
// An entry is one device's state in a slot. Slots are numbered through the whole table; a ref is a
// slot's number + 1. A shard is the part of the table that holds some users with all their devices.
// The claim is the right to change an entry; its owner is a goroutine. First sight is the insertion
// of a device, removal its end. A turn is a change that moves a device between offline, or unknown,
// and online; a user's aggregate is what its turns come to.
//
// # Picture
//
//	hash of user ─► shard ─┬─► devices: index of (user, device), read without a lock
//	                       │      [ tag|ref  tag|ref  vacant  tag|ref ... ]──┐
//	                       ├─► users: index of user, under the mutex         │
//	                       │      [ tag|ref of the device seen last ... ]──┐ │
//	                       │                                               ▼ ▼
//	                       │   slab: extents of 65,536 entries       [ entry ][ entry ] ...
//	                       │   outside the Go heap                      └─next─►┘ ring of a user
//	                       ├─► rosters: the refs of a user with 16 devices or more
//	                       └─► aggregates: by user, devices online and the last turn, under a
//	                           mutex of their own (aggregate.go)
//
//	entry, 96 bytes: user 16 | device 16 | head 8 | lsn 8 | deadline 8 | ttl, flags 8 |
//	                 sent, source 8 | heartbeat, source 8 | updated, source 8 | armed 4 | next 4
//	head, 64 bits:   seq+1 in 54 | version in 9 | claim in 1
//
// A heartbeat touches one line of its index and the two neighbouring lines of its entry; the rest
// is small enough to stay cached. An index is a hash table with open addressing, linear probing and
// tags (as in Swiss tables, https://abseil.io/about/design/swisstables, though with 32 bits of the
// hash in the word of the reference): a probe goes to an entry nearly only when it is the right
// one, and an index is rebuilt from its words alone.
//
// # What is lock-free, and what is not
//
// Find takes no lock and never waits. LastSeq and the other single words are one atomic load, so
// that a stale heartbeat is refused without writing anything. An accepted heartbeat is decided by
// one compare-and-swap on head, the claim; heartbeats of one device exclude each other while one of
// them owns it, some tens of nanoseconds, and spin and yield meanwhile. Load and Read are the
// readers of a sequence lock (https://docs.kernel.org/locking/seqlock.html; Boehm, "Can seqlocks
// get along with programming language memory models?", 2012,
// https://doi.org/10.1145/2247684.2247688): they take no claim but wait for its owner. First sight,
// removal and Devices take the shard's mutex, heartbeats of known devices never do.
//
// # Invariants
//
//   - T1 Publication. A word enters an index after the ids of its entry are stored. While a device
//     is there its word stays findable: nothing between the word's home and the word is vacated,
//     and a rebuilt index is complete when it is published. A reader of an index that was just
//     replaced misses what came since, no more; FindOrInsert looks under the mutex.
//   - T2 Claim. Only the claim's owner changes the state words and, with the shard's mutex besides,
//     the ids. So the ids hold for the owner of the claim and for the holder of the mutex; any
//     other goroutine may find that the slot was given to another device since, and asks Is, Read
//     or Claim.
//   - T3 One state. A reader takes words for a state only if head was free and the same before and
//     after, and lsn was too. The owner stores lsn after the other words and before it frees head,
//     and lsn only grows under one device: see below.
//   - T4 Mutex before claim. The holder of a shard's mutex may wait for a claim of an entry in it.
//     So the owner of a claim never waits for the mutex: Remove gives the claim back first.
//   - T5 Every device in an index of devices is in exactly one ring or roster, its user's: in a
//     ring in order of first sight, and the user's word names the ring's last. A user has one of
//     them. A slot is in an index, in the list of free ones, or in the rest of a run.
//   - T6 Aggregate. The owner of a claim that turns a device moves the user's aggregate before it
//     commits, so a reader of the entry and then of the aggregate finds the entry's turn there.
//     With no claim held, the aggregate counts the user's entries that are online. It goes with
//     the user's last device.
//   - T7 Last seen. What RaiseSeen returns for a user does not go back while the user has devices,
//     unless it is more than a minute ahead of the wall clock, and holds no turn that is not
//     committed: see below.
//
// T3 in full. Version changes with every commit, so that usually head alone tells. But it has 9
// bits, and a reader may be preempted for long:
//
//	reader                           owners, all with the same seq
//	load head (version 5), lsn 100
//	load deadline                    commit, version 6, lsn 101
//	                                 ... 511 more, version 5 again, lsn 612
//	load ttl: of another commit
//	load head: version 5, as before
//	load lsn: 612, not 100: again
//
// Suppose that lsn is the same twice and head free at its second load. An owner whose claim began
// before that load has freed head and had stored its lsn: before the first load of lsn then, with
// all its words before that. An owner whose claim began after it has stored its words after they
// were loaded. So the words are those of one commit. (Commits that keep the LSN, as after a
// restart, when deadlines are put off, are told apart by version.)
//
// T7 in full. A frame shows the latest instant that its reader may know of. A later frame of the
// user may be made when less can be read than before, since turns and heartbeats that are not
// committed have taken the place of what was:
//
//	turns of a user                  frames of it, in the order of LSNs
//	LSN 16, 17, 18, committed
//	                                 frame of 16: device 18 was seen last; that is shown
//	LSN 21, not committed:
//	the aggregate holds it, and
//	the entry of 18 is at LSN 22
//	                                 frame of 17: neither may be shown
//
// So a turn that changes SeenAtMS leaves what stood there before, a flight, until it is committed.
// Any value that is returned, v, is stored in the aggregate and in the user's flights. A later call
// returns one of these, or the aggregate. A flight that comes after v begins with the aggregate's
// value, which is at least v. And a flight holds what was shown, thus committed, and turns before
// its own: the first flight above through is the one of the first turn above it that changed
// SeenAtMS. A turn without a flight has changed nothing, or it was committed before another turn of
// the shard was made. NotAhead changes nothing of this but where a clock is put right.
//
// # Removal
//
// Removing takes the state under the claim and the entry under the mutex, in this order, with
// neither held in between (T4). In between the entry is like one at first sight. A heartbeat that
// gets in then is the device's first again, and keeps the entry.
//
// # What survives a crash
//
// Nothing: the table is rebuilt from the checkpoint and the log. It never reads a clock and does no
// I/O.
//
// # What is slow, and why that is fine
//
//   - First sight now and then rebuilds a shard's index: at ten million devices 8,192 words, in 100
//     to 200 us, under the mutex of one of 1,024 shards. Lookups go on meanwhile. Now and then it
//     maps an extent and waits for the kernel to zero a huge page.
//   - A user's ring is walked, a cache miss for each device, when one of its devices comes or goes:
//     15 at most, a microsecond or two. From 16 on the user has a roster, 4 to 8 bytes for each
//     device, in which a device comes and goes in one step; Devices copies it under the mutex, a
//     hundred thousand refs in some tens of microseconds, and looks at no entry.
//   - The last block of indexes is not full: 16 MiB at most of which nothing is resident, in tables
//     of some two million devices or more.
//   - A turn writes to a Go map under the mutex of one of 1,024 shards. The map grows in tables of
//     1,024 users at most, so that a turn that makes one grow copies some 40 KiB.
//   - A user that has turned takes 56 to 101 bytes of Go's heap besides, 77 on average between 400
//     thousand and 3 million users: 40 of them are the key and the aggregate, the rest is the room
//     of a map that doubles. An index of 8 bytes for each user into a slab would take some 20 bytes
//     less, and need a check of whose slot it is.
//   - Memory is not given back when devices go: slots are used again, by the shard that had them.
//
// # How far from the memory it is
//
// BenchmarkGroup measures a heartbeat's part of the table in groups of 32 beside two ceilings. One
// is a miss that depends on nothing, a read-modify-write of a random entry. The other is what any
// table must do: a chain of two, a random word of an index and then the entry that it names, in the
// same groups and in memory of the same sizes. With ten million devices the heartbeat takes 2.6 to
// 2.9 times such a pair, 180 ns beside 65 at best: of these, 120 are work that it takes on a
// thousand devices, too, where nothing misses, and 40 of those the seven atomic stores of a commit.
//
// Large indexes lie in huge pages (block.go), as entries do. At ten million devices that is 3 to 14
// % of a heartbeat, in units of the pair beside it.
//
// # What was tried
//
// PREFETCHW of the entries' lines, so that the claim need not wait for the line to become its own:
// no difference.
//
// Runs of 64 slots to every shard placed the entries of a small table 6 KiB apart, where they
// contend for a few sets of the caches; a shard takes as many slots as it has instead, up to 64.
// maphash took half as long again as the multiply-and-fold hash, and its key cannot be kept, which
// recovery wants.
//
// A look-up that passed ids as arrays, through a func value, took 460 ns in groups of 32 among a
// million devices where this one takes 260: the compiler keeps neither arrays nor what goes through
// a func value in registers, and a second probe for what likely had found cost two mispredicted
// branches.
//
// Memory outside the Go heap hides races from the detector: race builds allocate extents on the
// heap (slab_heap.go), and the tests run on both.
package table
