// Package checkpoint stores opaque keys and values as of an LSN: Pebble in a directory of its own.
// It knows nothing of what they mean, and nothing of the log.
//
// What it holds may be newer than its LSN, never older; replaying the log from LSN+1 on brings it
// up to date. That is a fuzzy checkpoint, as in ARIES
// (https://doi.org/10.1145/128765.128770).
//
//	Replace(lo, hi, items) ──► range-N.tmp: one sorted table, synced, beside the store
//	     │ once per range
//	     ▼
//	Install() ───────────────► ingest with excise: the tables take the place of all that was in
//	     │                     their ranges, durably; ranges without gaps all at once, or none
//	     ▼
//	Commit(lsn) ─────────────► the LSN, as a table of its own, last
//
// # What is slow, and why that is fine
//
// Each range costs one sequential write and a sync, however little of it changed; Install costs two
// syncs for each run of ranges without gaps, and Commit five. In exchange nothing is ever
// compacted. Pebble's own log and memory are not used: what a full disk refuses is an error here,
// where Pebble would try to flush its memory again and again.
//
// Until Install the old ranges and the new ones take room on the disk, so the caller installs now
// and then. Ingesting each range alone took three syncs each.
//
// # Opening, and starting
//
// Open only reads, through a file system that has no way to write, and finds what is missing, short
// or changed: the file FILES says what must be there (inventory.go), the manifest in it has the
// tables with their sizes, and whatever is read has a checksum. So a start that is refused has
// changed nothing. Pebble alone would not do: opened for writing it takes a directory without the
// marker of its manifest for a new one and removes the tables that were there, and it takes a
// manifest that was cut short for an older state.
//
// Start writes. A new store is made under another name and renamed when it is whole. So a directory
// with the store's name and no store in it is always damage.
//
// # What a crash leaves
//
// Some ranges newer than the LSN, which replay tolerates: of those that one ingestion replaced, all
// or none. Tables that were not ingested, which mean nothing and which the next Start removes; a
// value.tmp and a FILES.tmp, which the next ones overwrite; a FILES that is behind what is there,
// which is what it promises; a new store under its other name, which the next Start removes.
package checkpoint
