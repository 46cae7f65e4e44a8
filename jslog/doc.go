// Package jslog is the log of a partition whose owner may change: an engine's log, and the store of
// its checkpoints, in one replicated stream of messages. NATS JetStream has such streams.
//
//	engine ──► Log: Append, Wait ──► append loop ──► fence ──► Stream ──► replicas
//	   └─────► Store: Replace, Commit ───┘            expects the last sequence
//
// # Terms
//
// A claim is the message by which a process becomes the owner of a stream; its sequence is the
// epoch of all that the owner appends. A bucket is a part of a checkpoint. A no-op is a message
// without content, whose acknowledgement shows that its writer is the owner still.
//
// # What it promises
//
// The list of what a cluster promises is in package cluster; these are kept here.
//
// One writer (C1). Each append expects the sequence that the append before it was acknowledged
// with, back to the claim, see fence. So all that stands between two claims was written by the
// first of them. A purge needs no fence: it takes away what is below a checkpoint whose end was
// acknowledged, which every later claim finds.
//
// Acknowledged is committed (C2). Wait, and committed of Start, come after the acknowledgement.
//
// Doubt ends the claim (C3). An error, no answer within Options.AckTimeout, or the sequence of
// another message: the log fails, and appends nothing any more. What was in flight may be in the
// stream or not, and may even come in later, unless a claim came first.
//
// One space of LSNs (C4). Each message says which LSN comes first in it, or next: so a stream whose
// records were all purged still knows it. Replay takes no gap.
//
// # A stream
//
//	claim  batch 1-3  batch 4  bucket  batch 5-9  bucket  checkpoint as of 4  noop  claim ...
//	└── purged once the checkpoint is acknowledged, up to the first bucket, or to the first
//	    message with an LSN above 4 where that is earlier
//
// A value in a bucket stands behind the record that it is made of, and before the next record of
// its device that it does not know: so replay takes up values and records in the order in which it
// finds them. The buckets of a checkpoint that was not ended are as good as any others, but they
// replace nothing.
package jslog
