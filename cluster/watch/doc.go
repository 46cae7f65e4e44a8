// Package watch has streams on any node follow users whose owners are any nodes.
//
// A Hub is the owner's side of one partition, an Edge a node's side of all partitions. The node
// that owns a partition watches it in the same way, by messages to itself.
//
//	node A                                       node B, owner of partition p
//	streams ─► Edge ── WATCH {users of p} ─────► Hub of p: vouch, register, read the table
//	            │  ◄── SNAPSHOT {states} ──────────┤
//	        Follower ◄ DELTA {records} ────────────┤◄── Publish, Flush: the commit loop of p
//	            │  ◄── pulse {epoch, number, age} ─┘
//	          streams
//
// # Terms
//
// The epoch of a partition is the number of its newest claim: each claim has a Hub of its own. To
// watch is to be registered at the Hub for a user. A number counts the messages that a Hub has sent
// to one node: SNAPSHOT and DELTA have the next one, a pulse says the last. A generation counts the
// doubts of an edge about a partition. A question is the number of a WATCH, which the SNAPSHOT that
// answers repeats. A user is told when a SNAPSHOT of the present generation has all its states: one
// whose question was sent in it, and is not older than the first that named the user.
// A settling user is one of whom a device was left out of the SNAPSHOT, since its change was not
// committed yet. A stream that is held has its head sent and waits for its users to be told.
//
// # Invariants
//
//   - E1. SNAPSHOT, DELTA and the pulses of a node come on one subject, in order or not at all, and
//     a message that was lost, dropped by the bus or left out by the Hub has a number. So an edge
//     knows that it has all of them, or that it has not.
//
//   - E2. A Hub registers a node for a user and has the states of the user in one step between
//     two batches of the commit loop. The states are those of the last Flush, and every later
//     change is in a DELTA behind the SNAPSHOT.
//
//   - E3. A user is told or not told, and in doubt of a partition none is: a claim, a gap in the
//     numbers and a silence of three seconds each begin a new generation, for which all users of
//     the partition are asked. The answer to an earlier question is not applied.
//
//   - E4. A stream begins at an instant at which all of its users are told, and of each the owner
//     began an append that was acknowledged within the second before, or since the stream opened
//     (C5): so it lacks nothing that was acknowledged more than a second before it opened, by any
//     owner. An edge that does not know so asks the owner, which appends.
//
//   - E5. A Follower is given the states of a device forward only: the records of an owner come in
//     its order, and the next owner has all that were sent, since only committed ones are sent.
//
// # Why registration and states are one step
//
// With two steps a change is in neither, or comes twice and back:
//
//	commit loop               the hub's goroutine            node A
//	                          reads d: seq 7
//	commits d, seq 8: no node
//	watches
//	                          registers A
//	                          sends the states              d is at 7, until it changes again
//
// To register first, and read afterwards without the lock, has the DELTA of seq 8 overtake the
// states with seq 7. So the first Publish of a batch takes the lock under which users are
// registered, and Flush gives it back. Between Publish and Flush nothing waits for anything, and
// the hub's goroutine has the lock for a chunk of users at a time.
//
// To read a user of very many devices takes as long as many chunks. Its states are read without
// the lock, as of the last Flush before, while Publish notes what changes of that user. That is put
// into them, the last few changes under the lock under which the node is registered: so they are
// those of the last Flush then, and the edge sees no difference:
//
//	commit loop               the hub's goroutine            node A
//	Flush, through 7          through 7; reads d, e, ...
//	commits d, seq 8: noted   ... x, y, z
//	                          puts seq 8 into the states
//	commits e, seq 9: noted
//	                          puts seq 9 into the states,
//	                          registers A, sends them  ────► as of seq 9
//	commits d, seq 10: DELTA  ─────────────────────────────► seq 10
//
// # Why a doubt ends user by user, and only by an answer to it
//
// Messages were lost: of which users is not known, so all are in doubt. A SNAPSHOT that was under
// way answers nothing, since it was made before what was lost:
//
//	hub                            edge
//	SNAPSHOT 7 {u: seq 1}          asked for by a stream that has just opened
//	DELTA 8 {v: seq 5}             ╳ lost
//	DELTA 9 {w: seq 3}             a gap: generation 2, WATCH {u, v, w}
//	SNAPSHOT 10 {x: seq 2}         of generation 1: would it end the doubt, v stayed at seq 4
//	SNAPSHOT 11 {u, v, w, x}       of generation 2: told
//
// A user that is unwatched and watched again has the same problem within a generation. The question
// that named it first tells the answers apart:
//
//	hub                            edge
//	                               WATCH 1 {u}; its stream ends; UNWATCH {u}
//	registers u, SNAPSHOT of 1
//	unwatches u                    a stream of u opens
//	                               SNAPSHOT of 1: not applied, since u was not asked for yet
//	                               WATCH 2 {u}
//
// Within a generation the states of different users may come in different messages, with DELTAs
// between them: those of a user that is not told yet are left out, since its SNAPSHOT will be later
// than they are. What is held of a user in doubt stays: its streams are told of the difference when
// it is told anew.
//
// # Why a device that was left out waits
//
// The table is ahead of the last Flush, so a device that is just being changed has no state that
// may be shown. A SNAPSHOT without it would say that it is gone. So the user settles: the edge
// keeps the states until the DELTA with the change has come, and tells both together. One that is
// just being forgotten is not in the table any more, and is waited for likewise: the change may
// never be committed.
//
// # Very many users at once
//
// A claim puts all users of a partition in doubt. The edge asks for a window of them, first those
// that streams wait for, and for the next as answers come, so that SNAPSHOTs do not fill the way
// from their owner, which acknowledgements of heartbeats take, too. Users of streams that open
// meanwhile are asked for at once. A hub works for its nodes by turns, and has the lock of its
// commit loop for a chunk at a time; an edge applies a message at a time.
//
// # Bounds
//
//	what                            bound                 when it is reached
//	users of a hub                  HubOptions.MaxUsers   a WATCH of more is not answered
//	nodes of a hub                  64                    the same
//	requests of a node at a hub     256                   dropped: the node asks again
//	messages to a node              those of the bus      dropped: a gap at the node
//	users of a partition that are   1,024                 the next are asked for when half of
//	being asked for                                       them were answered
//	users of a WATCH, of a chunk    2,048, 512            the next message
//	devices of a user that is       512                   it is read without the lock; the same
//	read under the lock                                   is sent
//	states of a message             128 KiB               the next message
//	users of an edge                EdgeOptions.MaxUsers  a stream is refused
//	streams that are held           MaxHeld, Hold         refused; ended with retry
//	states of one user              256 MiB               it is never told
//	users without a stream          Linger                unwatched, 2,048 each tick
package watch
