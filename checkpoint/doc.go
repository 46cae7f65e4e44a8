// Package checkpoint stores opaque keys and values as of an LSN: Pebble in a directory of its own.
// It knows nothing of what they mean, and nothing of the log.
//
// What it holds may be newer than its LSN, never older; replaying the log from LSN+1 on brings it
// up to date. That is a fuzzy checkpoint, as in ARIES
// (https://doi.org/10.1145/128765.128770).
//
//	Replace(lo, hi, items) ──► range.tmp: one sorted table, synced ──► ingest with excise
//	     │ once per range            durable, takes the place of all that was in [lo, hi)
//	     ▼
//	Commit(lsn) ─────────────► the LSN, written the same way, last
//
// # What is slow, and why that is fine
//
// Each range costs one sequential write, however little of it changed, and Commit costs one more.
// In exchange nothing is ever compacted. Pebble's own log and memory are not used: what a full disk
// refuses is an error here, where Pebble would try to flush its memory again and again.
//
// # What a crash leaves
//
// Some ranges newer than the LSN, which replay tolerates, and at most one range.tmp, which the next
// Replace overwrites.
package checkpoint
