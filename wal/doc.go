// Package wal is a write-ahead log of opaque records: numbered, in order, durable before they are
// acknowledged. It knows nothing of what the records mean.
//
// # The way of a record
//
//	Reserve ──► Append ──► Wait, Commit or Kick ───────────────► acknowledge
//	 credit      LSN and     │ wakes the loop    ▲ one channel close per batch
//	             place, copy ▼ or leads          │
//	             │     ┌─────────────────────────┴──────────────────────────┐
//	   filling   ▼     │ turn: the commit loop's, or that of one Commit     │
//	  ┌──────────────┐ │ seal ► wait for copies ► checksum ► write ► sync   │
//	  │ buffer 0 or 1├─┼─► durable LSN moves ► wake ► committed(records)    │
//	  └──────────────┘ │ next batch: what was appended meanwhile            │
//	                   └────────────────────────────────────────────────────┘
//
// An LSN is a record's number; the first is 1, none is left out. A batch is what one write and one
// sync cover (group commit). There are two buffers: one is filling while the other is in flight. No
// timer decides when a batch ends: the sync of the one before does. So one appender waits for one
// sync, and ten thousand share it.
//
// A turn commits one batch. One goroutine at a time runs it, the holder of the turn lock. That is
// the commit loop, for callers of Wait and Kick; or a caller of Commit, which saves two wake-ups:
// the loop's and its own. A caller of Commit leads when no turn is in flight. Otherwise it follows:
// its record is committed by a turn that another one runs, or it gets the lock and leads the next.
// Append wakes nothing: an appender of many records says once, at the end, that they are there.
//
// A credit is the right to append one record of a given size. It separates the step that may wait
// or be refused (Reserve) from the step that may not (Append), because the latter happens while its
// caller holds a device that others wait for.
//
// log.go has the picture of the parts and their state: credits, gate, buffers, progress, committer
// with its writer, preparer, recycler, truncator, recovery.
//
// # Invariants
//
//   - W1: LSN order is byte order. One atomic add gives an appender its LSN and its place
//     (buffers.go has the word and the interleaving that it prevents). A batch's first LSN is fixed
//     by the step that makes it the filling one.
//   - W2: what has a credit fits. credit + reserved + filling <= BufferBytes, always; therefore
//     Append cannot fail, block or be turned away, and Close knows when all credits are home. What
//     is filling gives its credit back in the next turn, which a Reserve without room asks for
//     itself.
//   - W3: the durable LSN only grows, and moves only after a sync returned without error, over what
//     was written before that sync began. The committed LSN only grows, and moves only after the
//     batch is written, in SyncAlways synced, in SyncInterval synced if that is due. No caller of
//     Wait or Commit gets nil before. Only a turn moves them, and turns are one at a time.
//   - W4: a segment's header is durable before its first block is written, and everything in a
//     segment is durable before the next one's header is written, in every sync mode. So what a
//     crash can leave is narrow, and anything else is damage.
//   - W5: the first failed write or sync is final, whichever goroutine's turn it is in: every later
//     turn ends at once, and the commit loop with it. Nothing is retried: after a failed sync the
//     kernel may call lost pages clean, and a second sync would succeed. Recovery rewrites what no
//     later block proves durable, for the same reason.
//   - W6: a block is valid in one place only. Its checksum covers segment number and offset.
//   - W7: everything is bounded: two buffers, one prepared segment, maxRecycled files that wait to
//     be recycled, one block of memory per reader; and, whatever the disk does, the time that
//     Reserve, Wait and a Commit that follows take (stall.go). The one that leads is in the
//     kernel.
//   - W8: a file becomes another segment only when its renaming off the log is durable, so that it
//     cannot come back under its old number, and while no View has it open (recycle.go).
//   - W9: a Reader reads what is committed and nothing else. Within its bound no record that it
//     wants is taken off; beyond, the oldest go first, and it begins with the oldest that is there.
//   - W10: what the control file says is true of the segments, whenever the process ends: it names
//     a segment after its header is durable and before its first block, an LSN after its sync, a
//     checkpoint's LSN after the checkpoint is durable. So a log that contradicts it is damaged.
//   - W11: the log's path leads to the directory that is locked, or the log fails: it is looked at
//     each second, before a file is made or removed, and by Sync. A log that is given a file system
//     which holds its directory open (internal/rootfs) touches no other one meanwhile (guard.go).
//     So it is with the control file and the newest segment: they are looked at each second
//     (controllook.go).
//
// # What a crash leaves, and what recovery makes of it
//
// Segments are files of zeros, or of blocks of an earlier segment, which are filled with blocks;
// docs/wal-format.md draws the bytes. Each block, and each segment header, states the LSN that was
// durable when it was written. Reading stops at an offset X where record L should come and no valid
// block is:
//
//	is there a next segment? ── yes ─► does it begin with L? ── yes ─► go on there: an earlier
//	        │                                  │                       recovery cut here, or the
//	        no                                 no ─► CorruptionError   segment was full
//	        ▼
//	does any block header behind X, or the control file, promise a durable LSN >= L?
//	        │                                                        ── yes ─► CorruptionError
//	        │
//	        no ─► the end. Zeros, or in a recycled file no block header: a clean one.
//	              Else a torn tail: cut, and logged
//
// A torn tail was never acknowledged in SyncAlways: its sync had not returned. Recovery never
// appends to an old segment; it begins a new one, whose header makes the cut permanent. Close
// writes an empty block with a promise for everything before it, so any flipped bit in a log that
// was closed either hits no record or is an error.
//
// Files that are short or missing are told from a crash by the control file (control.go): it knows
// the newest segment, an LSN that was durable, at most a second ago while the log was written, and
// whether the log was closed in order, and through which record. A segment's header states the size
// that its file was made with. After a crash one case remains that no log without a second copy can
// tell: damage behind the last word about what was durable looks like batches that never became
// durable. That word is the newest of: a later block, the control file, the checkpoint.
//
// What a crash of the machine loses: in SyncAlways nothing that Wait returned nil for; in
// SyncInterval at most what Wait returned nil for within one interval, since a sync that is due
// comes before the waiters; in SyncNever what the operating system had not written back. A crash of
// the process alone loses nothing that Wait returned nil for, in any mode.
//
// # A disk that hangs
//
// A volume that is being snapshotted is frozen: a write or a sync returns when it is thawed, and
// nothing can end it before. Waiters are not left to that: stall.go tells them, and all who want
// credit, that the log is stalled, until the commit in flight ends. So it is with callers of
// Commit, except for the one whose turn hangs: it returns when the disk does. It is not a failure
// (W5): what is in the buffers is committed then. So a record whose waiter got ErrStalled may be
// stored or not; a later Wait for the same LSN says which.
//
// # Room
//
// A preparer keeps one segment ready: a sync of blocks that are already allocated and written has
// no metadata to store and takes about two thirds of the time of one at the end of a growing file.
// It is a file that TruncateBefore took off the log, or else a new one that is filled with zeros,
// which doubles what the disk writes. It fills in pieces and rests between them, to leave the disk
// to the commits, unless it would be late if the log were written as fast as it fills. When it
// cannot (disk full) and the current segment has little more left than what may still be appended,
// the gate refuses credits until it can. That is backpressure, not a failure.
//
// In the modes that do not sync each batch the operating system is asked to begin writing a segment
// while it fills, in steps. Otherwise the sync at its end (W4) would have up to 64 MiB to write,
// and all waiters with it.
//
// # What is slow, and why that is fine
//
// Waking costs more than writing: with ten thousand waiters most of the time goes into making
// goroutines runnable. One channel close per batch wakes them in one go. Sealing waits for the
// copies in progress by yielding; an appender between its add and the end of its copy does nothing
// that could block. Start fills its first segment with zeros before it returns, some tens of
// milliseconds.
//
// # What was tried first
//
// A pointer to the current batch, with a state word in each batch: the first LSN of a batch is then
// known only after the previous one is sealed, which is after the new one became current, so an
// appender had to spin in between. One word for both has no such moment. A checksum over header and
// payload together: the scan behind a torn tail would then have to checksum a payload for every
// record that looks like a header, which a sender could put into many records; and a block whose
// payload is damaged could not be believed its promise. Not yielding before sealing: with nothing
// but appenders that is as good, but behind the HTTP server a sync then carries half as many
// records, and processor time is what the server is short of.
//
// What the control file says, kept in the checkpoint's store instead: a change there writes a table
// and a manifest, and takes several times as long, in the commit loop at each new segment; and the
// log could no longer be read without its checkpoint.
package wal
