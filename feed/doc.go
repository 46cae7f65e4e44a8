// Package feed is a second reader of what was committed: it hands the records of a log to a
// consumer, in LSN order, each at least once, across restarts. It knows nothing of what they mean.
//
// # Terms
//
// The cursor is the LSN up to which the consumer has dealt with every record. It is durable, in the
// store beside the log, under the feed's name. The mark is the lowest LSN that the log keeps for
// the feed; the record behind the cursor. A gap is a range of records that the log no longer has.
//
//	          saved cursor     done        next
//	               │            │           │
//	records  ... 17 18 19 20 21 22 23 24 25 26 27 28 ...
//	             └┬┘└────────┬──┘└────┬───┘└────┬───
//	      may be  │  delivered again  │  Read, not Done    committed: Read waits for it
//	    taken off │  after a restart  │
//	              mark
//
//	Read(fn) ──► the log's records ──► consumer ──► Done(lsn)
//	   ▲                                              │
//	   └── each SaveEvery: Sync the log, save the cursor, move the mark
//
// # Invariants
//
//   - F1: Read yields next, next+1, ...: in LSN order, no record twice in one life unless the
//     consumer refused it, none that the log has not committed. A new life begins behind the saved
//     cursor. So a record is delivered at least once.
//   - F2: a record is left out only by a GapError that names it, before any later record is
//     delivered.
//   - F3: the cursor is never ahead of what is durable in the log, in any sync mode. Else a crash
//     could give the LSNs below it to other records, which would be left out.
//   - F4: the mark is never above the saved cursor + 1, and Open sets it before the log may be
//     truncated. So a restart finds every record that it needs, or a gap that the bound explains.
//   - F5: the log bounds what it keeps for the feed alone, in bytes. A consumer that stands still
//     costs no more, and loses its place beyond (F2).
//
// # What a crash leaves
//
// The saved cursor. What was delivered or Done since then is delivered again.
//
// # What is slow, and why that is fine
//
// Saving a cursor costs the store some syncs, so it is saved each SaveEvery, and at Close. A feed
// that is behind reads from files, which the operating system's cache holds for the last minutes.
package feed
