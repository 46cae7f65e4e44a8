// Package broadcast tells streams what happens to the devices of the user that they follow.
//
// It knows nothing of devices, records or HTTP, chunked framing aside: a Codec turns events into the text of frames, a
// Conn takes bytes. It reads no clock: time comes in through Tick (I7).
//
//	                 Publish, Publish, ... Flush(through)        Subscribe     Tick    Ready
//	                              │                                  │          │        ▲
//	commit loop ──► stage ──┬─────┼──────────────────────────────────┼──────────┘        │
//	                        ▼     ▼                                  ▼                   │
//	                  inbox of worker 0 ... n: batch + through, subscriptions, time, readiness
//	                        │ all at once, once a turn                                   │
//	                        ▼                                                            │
//	                     worker ── frames per user ── one write per stream ──► socket ─► poller
//
// # Terms
//
// A worker is a goroutine that owns the streams of the users that hash to it; nobody else touches them. A turn is one
// round of its loop. W is the LSN through which it has taken the events: it moves with every Flush, for a worker without
// an event too. A lap is one pass over the streams of a user. A parcel is text for a stream, written once for
// all that are owed the same.
//
// # What a stream is owed
//
// A stream is nothing but a connection and an LSN, through: it has, in bytes written or in its backlog, everything that
// happened to its user at or below it. A user keeps the frames of the events in (base, last]. What a stream is owed
// follows:
//
//	through == last   nothing
//	through >= base   the frames above through, as they are
//	through <  base   the newest state of each device that changed in (through, W]: its frames are gone
//
// A new stream is one that has nothing yet: it gets (0, W]. A stream that lags, a user whose frames became too many, a
// worker whose queue was full: each is the last row. There is no other form of conflation, and none costs memory
// per device.
//
// The state in the last row is read from the table, which is ahead of W. A device that changed above W is left out. Its
// event has not been taken yet, and will be owed to the stream as any other:
//
//	table                    worker (W = 7)                  stream
//	d changes, LSN 7
//	                         takes 7, is asked for (0, 7]
//	d changes, LSN 8
//	                         reads d: LSN 8 > 7, left out    snapshot without d
//	Flush(8)                 takes 8                         frame of LSN 8: no gap, no double
//
// # Invariants
//
//   - B1. A batch's events and its through reach a worker in one step, and a worker answers subscriptions between
//     batches (I3): whoever is told "through W" misses nothing at or below W and gets nothing of it twice.
//   - B2. A worker asks for states only up to its own W. What the table knows beyond it is still in the queue.
//   - B3. A stream's through only grows, and it is given only what lies above through, in LSN order: never a step back.
//   - B4. Frames leave a user's fan from the front only, and base moves past them in the same step.
//   - B5. Who ends: a Conn that Subscribe took is closed exactly once, by the worker, whatever happens meanwhile.
//     Subscriptions are refused under the same lock under which the worker learns that it must drain or stop.
//   - B6. Everything has a bound (I5), see below.
//
// # Bounds
//
//	what                        bound             when it is reached
//	events waiting              QueueBytes        the queue is dropped; its users' streams get the newest states
//	frames of one user          16 BacklogBytes   dropped; the same for this user
//	frames of all users         PendingBytes      the same for the user that comes next
//	backlog of one stream       BacklogBytes      it lags: it is given nothing until the backlog is empty
//	backlogs of a worker        PendingBytes      streams lag at once; one in the middle of a chunk is closed
//	time without progress       WriteTimeout      closed
//	streams                     MaxStreams        ErrTooMany
//	streams of one user         MaxStreamsPerUser ErrTooManyOfUser
//	reports of readiness        one per stream    bits are joined
//	visits, openings per turn   constants         the rest goes on in the next turn
//	input of a client           64 KiB            closed
//
// A snapshot is as long as its user has devices, so a backlog that begins with one can be longer than BacklogBytes, but
// not longer than PendingBytes allows.
//
// # Many streams of one user
//
// A lap visits some streams of a user and goes on after other users had theirs: those first that have just been woken,
// so that nobody's event waits for a crowd's lap, but crowds keep a quarter of the visits. Frames that come meanwhile
// wait in the fan; a stream that the lap has not reached yet gets them in the same write, the others in the next lap.
// At the end of a lap all frames that were there at its beginning can go: each stream has taken them or lags. Under
// load batches thus grow by themselves, and writes, which are nearly all of the cost, get fewer.
//
// # Ends
//
// A planned end is a retry line (not for an expired token: reconnecting needs a new one anyway), the last chunk, then
// the closing of our side. The descriptor is closed when the client has closed its own, or after five seconds: closing
// earlier could reset the connection under bytes that the client has not read.
//
// # Connections
//
// On Linux a stream is a descriptor in one edge-triggered epoll, and costs no goroutine. Readiness names the stream and
// how often its slot was used before, never the descriptor, which may be another stream's by the time the report
// comes. The epoll descriptor is itself watched by Go's poller, so that no thread blocks in it. Elsewhere, and with TLS,
// a goroutine reads and another exists while a write is on its way.
package broadcast
