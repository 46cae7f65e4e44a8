// Package broadcast sends each stream what happens to the devices of the user that it follows.
//
// It knows nothing of devices, records or HTTP, chunked framing aside: a Codec turns events into
// the text of frames, a Conn takes bytes. It reads no clock: time comes in through Tick (I7).
//
//	          Publish, Publish, ... Flush(source, through)    Subscribe     Tick    Ready
//	                           │                                  │          │        ▲
//	commit loop of a source ──► stage ──┬─────────────────────────┼──────────┘        │
//	                                    ▼                         ▼                   │
//	              inbox of worker 0 ... n: queue + through, subscriptions, time, readiness
//	                                    │ all at once, once a turn                    │
//	                                    ▼                                             │
//	                     worker ── fans ── laps ── one write per stream ──► socket ─► poller
//
// # Terms
//
// A source is one order of LSNs: the log of this process, or in a cluster that of a partition. A
// user is of one source for ever. A worker is a goroutine that owns the streams of the users that
// hash to it; no other goroutine touches them. A turn is one round of its loop. The worker's
// through, one for each source, is the LSN through which it has taken the source's events: it moves
// with every Flush of the source, for a worker without an event too. A fan is the text of a user's
// frames. A lap is one pass over the streams of a user. A crowd is a user in the middle of a lap:
// one with more streams than a turn visits at a time. A parcel is text for a stream, written once
// for all streams that are owed the same. To conflate is to send the newest state of each device
// instead of each event. A list stream follows many users. A turn of a device, as opposed to one of
// a worker, is an event that changes how many devices of its user are online, which is the user's
// aggregate.
//
// # What a stream is owed
//
// A stream is a connection with a follow: a user and an LSN, through. The stream has, in bytes
// written or in its backlog, everything that happened to the user at or below it. A user keeps the
// frames of the events in (base, last]. A follow is owed:
//
//	through == last   nothing
//	through >= base   the frames above through, as they are
//	through <  base   the newest state of each device that changed above through, up to the
//	                  worker's through: frames of it are gone
//
// A new follow is one that has nothing yet: it gets all states through the worker's through. A
// stream that lags, a user whose frames became too many, a source that lost events: each is the
// last row. There is no other form of conflation.
//
// The last row is a snapshot. It may be of a hundred thousand devices, and of as many streams, so
// a stream takes it a piece at a time: as fast as its client reads, and within what a turn of the
// worker may spend. Kept for it are the names of the devices and how far it is, not the text:
//
//	names of the user's devices, as of the begin      piece 1 │ piece 2 │ ...
//	a fast stream                                     takes, waits its turn, takes, ...
//	a slow one                                        takes; its socket is full; nothing is made
//
// Streams that open while the user has no event share the names and, in step, the pieces. What
// happens to the user meanwhile is owed when the snapshot is over: as frames, which are held for it
// within bounds (hold), or when these are gone as another snapshot, of what changed since.
//
// The states are read from the table, which is ahead of the worker. A device that changed above the
// snapshot's through is left out. Its event is owed to the stream as any other, if the worker has
// not even taken it yet:
//
//	table                    worker (through 7)              stream
//	d changes, LSN 7
//	                         takes 7, asks for (0, 7]
//	d changes, LSN 8
//	                         reads d: LSN 8 > 7, left out    snapshot without d
//	Flush(8)                 takes 8                         frame of LSN 8: no gap, no double
//
// # Invariants
//
// All of them hold for each source by itself.
//
//   - B1. A batch's events and its through reach a worker in one step, and a worker answers
//     subscriptions between batches (I3): a stream whose snapshot goes through an LSN misses no
//     event at or below it and gets none of them twice.
//
//   - B2. A worker asks for states only up to its own through. Later changes of the table are still
//     in its queue, or not published yet.
//
//   - B3. A follow's through only grows, and the stream is given only what lies above it, in LSN
//     order: never a step back.
//
//   - B4. Frames leave a user's fan from the front only, and base moves past them in the same step.
//
//   - B5. The worker closes each Conn that Subscribe took, exactly once, whatever happens
//     meanwhile. Subscriptions are refused under the lock under which the worker learns that it
//     must drain or stop.
//
//   - B6. Everything has a bound (I5), see below.
//
//   - B7. A source that loses events, by Lose or in a full queue, conflates the streams of its own
//     users: those of other sources get every frame.
//
//   - B8. A stream in the middle of a snapshot is given nothing else of its user, and its through
//     moves when it has the last piece: a device that was left out of a piece for having changed
//     above the snapshot's through is owed after it.
//
//   - B9. An event is left out only if its user had no stream when its batch began, and a stream
//     that is asked for later opens behind that batch's Flush.
//
//   - B10. A list stream is given what happens to its users in LSN order, and has, in bytes written
//     or in its backlog, all of it at or below its through. So the LSN in the id of an event is a
//     cursor: a client that has the event has all below it.
//
//   - B11. The end of a first catch-up is told behind everything that its pieces left out for
//     having changed above the catch-up's through.
//
// B9 lets a commit loop pass over the events that no stream gets, which are most of them where few
// users are watched. It asks a filter (follows) without a lock, so the bad interleaving is this:
//
//	commit loop                    any goroutine          worker (through 7)
//	d changes, LSN 8
//	Publish(8): no stream of the
//	user: left out
//	                               Subscribe
//	                                                      takes it: a snapshot through 7, which
//	                                                      leaves d out (B2)
//	Flush(8)                                              takes 8, without the event: a gap
//
// The first Publish of a batch therefore says, under the inbox's lock, that the source's batch has
// begun. A subscription that comes before is in the filter, for the whole batch. One that comes
// after it waits (late) until Flush, in one step, moves through and lets the worker have it: its
// snapshot holds the batch. Flush follows within the same call of the commit loop.
//
// # Who owns what
//
// The worker's goroutine owns the parts of the worker; each is a type with fields of its own. What
// other goroutines need goes through the inbox, under its mutex.
//
//	inbox      what waits for the worker: any goroutine, under mu
//	follows    whether events of a user are wanted: stored under mu, loaded by commit loops
//	mail       what the present turn works on, its through by source
//	slots      the places of streams; what Ready touches of them is guarded by the inbox's mu
//	users      users with streams, the lists of their follows
//	lists      list streams: their follows, the journal, debts, lingers
//	fans       the frames of users: base, last
//	laps       the users to be visited
//	parcels    the frames made last
//	snapshots  streams in the middle of one, and the pieces made last
//	writer     backlogs, and which streams lag
//	deadlines  the clock and the ring: when a stream is to be looked at
//	drain      random ends and reconnects
//	delivery   the batch that is being measured
//	guests     streams that wait for Begin, and what is called when some end
//
// # Bounds
//
//	what                      bound               when it is reached
//	events waiting            QueueBytes          the queue is dropped; the streams of the sources
//	                                              with events in it get the newest states
//	frames of one user        16 BacklogBytes     dropped; the same for this user
//	frames of all users       PendingBytes        the same for the user that comes next
//	backlog of one stream     BacklogBytes        it lags: it is given nothing until it is empty
//	backlogs of a worker,     PendingBytes        streams lag at once; one in the middle of a
//	with what the system                          chunk is closed
//	holds in front of them
//	the same of one user      PendingBytes/2      the same for this user's streams
//	unsent bytes of a socket  unsentBytes         the rest is the stream's backlog
//	time without progress     WriteTimeout        closed
//	streams                   MaxStreams          ErrTooMany
//	streams of one user       MaxStreamsPerUser   ErrTooManyOfUser
//	reports of readiness      one per stream      bits are joined
//	visits, openings, pieces  constants           the rest goes on in the next turns
//	names of a user's devices 4 bytes each        while a stream takes them, and one worker's last
//	users of list streams     MaxFollows,         ErrTooManyFollows, ErrTooManyFollowsOfOwner
//	                          MaxFollowsPerOwner
//	journal                   QueueBytes          the older half goes: who is owed of it catches up
//	debts of a worker         maxDebts            the stream that is owed one more catches up
//	lingers                   one for each follow what is left is looked at when it comes up
//	input of a client         64 KiB              closed
//
// Openings and pieces have a budget for each turn (turnBudget), in bytes: some 200 us. A worker
// that has spent it rests for half as long, since a goroutine that never waits takes its processor
// from the heartbeats. Opens have one half of it, and streams that wait for a piece a quarter at
// least.
//
// # Many streams of one user
//
// A lap visits some streams of a user and goes on after other users had their visits. Users whose
// lap has not begun come first, so that no event waits for a crowd's lap, but crowds keep a quarter
// of the visits. Frames that come meanwhile wait in the fan; a stream that the lap has not reached
// yet gets them in the same write, the others in the next lap. At the end of a lap all frames that
// were there at its beginning can go: each stream has taken them or lags. Under load batches thus
// grow by themselves, and writes, which are nearly all of the cost, get fewer.
//
// # Many users on one stream
//
// A list stream follows up to some thousand users. All of its follows belong to its own worker,
// whichever workers the users hash to: a commit loop copies an event to each worker that has a list
// stream for its user, which marks say with one load. So a list stream has one order of events and
// one through, as a stream of one user has, no message goes from worker to worker, and the streams
// of a user whom very many follow are spread over all workers. What it costs is that a user who is
// followed at two workers has its frames encoded at both.
//
//	commit loop ── marks: workers 0 and 3 ──► inbox of 0 ──► journal ──► debts of its streams
//	                                     └──► inbox of 3 ──► journal ──► debts of its streams
//
// The journal has the worker's events of followed users, and their text once it was made. A
// stream's debts are the entries that it is owed: a queue of numbers, in the order of LSNs. A visit
// writes all of them at once, each behind an id line of the stream's own. What is gone, for a
// journal or debts that were full, events that were lost, or a stream that lagged, is made up for
// by a catch-up: a walk over the stream's users and their devices for the newest states above its
// through. The beginning of a stream is the same walk, and so is that of a client who comes back
// with a cursor: from what it has, for the users that it had.
//
//	catch-up (after, through]       stream's through     cursor of its events
//	user 1, user 2, ... user n      after                what the client brought, or after
//	last piece given                through              LSN of the event
//	everything up to until given    through              synced, if it is the stream's first
//
// To note an event in the debts of its user's streams is work of one turn, some 50 ns for each: the
// writes are what is divided among turns. A user with a hundred thousand follows at one worker thus
// takes 5 ms of it.
//
// A view of users gets the aggregate in place of devices, and only the turns of the events, which
// are those that change it. An aggregate has the LSN of its last turn, so that it is owed or left
// out as a device is. With a linger time a user without a device online is told as online; an item
// in lingers has the stream told when the time is over, by what the aggregate is then.
//
// # Ends
//
// A planned end is a retry line (not for an expired token: a client with a new one may come back at
// once), the last chunk, then the closing of our side. The descriptor is closed when the client has
// closed its own, or after five seconds, one second in a drain: closing earlier could reset the
// connection under bytes that the client has not read.
//
// A retry line never leads back into the drain that sent it: its delay is what is left of the
// drain, that last second, the time of a restart (SetRestart), and a random part. An end for
// another reason is not planned, and its client takes nothing more: it comes back when it wants to.
//
// # Connections
//
// On Linux a stream is a descriptor in one edge-triggered epoll, and costs no goroutine. Readiness
// names the stream and how often its slot was used before, never the descriptor, which may be
// another stream's by the time the report comes. Elsewhere, and with TLS, a goroutine reads and
// another exists while a write is on its way.
package broadcast
