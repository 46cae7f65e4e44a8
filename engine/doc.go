// Package engine is a partition's state machine: heartbeats in, events out, silence noticed. It
// knows no HTTP, no files and no flags: the log, the store, the clock and the sockets are passed
// in.
//
// # The way of a heartbeat
//
//	server ──► Heartbeat
//	             1 find     table   lock-free look-up of (user, device); a stale seq ends here
//	             2 reserve  log     credit for the record, before the claim; none: wait, refuse
//	             3 claim    table   one CAS makes this goroutine the device's only writer
//	             4 append   log     the record gets its LSN and its place; no I/O, never fails;
//	                                a turn moves the user's aggregate around it
//	             5 commit   table   new state, new seq, claim released
//	             6 arm      wheel   only when the new deadline is before the one that is armed
//	             7 wait     log     group commit wakes all waiters that it covers
//	204 ◄────────┘
//	           commit loop: write ► sync ► committed ──► Events: broadcaster ──► streams
//	           expire loop: tick ► due? ► expire, which is steps 2 to 5 again, without a waiter:
//	                        for each device of a wave, and then the log is told once
//
// A Batch does steps 1 to 6 for each of its heartbeats, with the look-ups of a group at a time, and
// step 7 once.
//
// # Rooms
//
// An Engine joins parts that work on the same devices: the table, the texts of its sources, the
// log, the clock and the counts. Each part is a type with the fields that it alone may touch.
//
//	engine.go      Engine        what the server, cmd and tests call; Recover, Start, Drain, Close
//	heartbeat.go   acceptor      judges and applies heartbeats (batch.go: many)
//	expire.go      expirer       deadlines (expireloop.go: the loop, due.go: its lists)
//	listen.go      listening     how long the process has read what daemons send
//	checkpoint.go  checkpointer  checkpoints, and forgetting (ranges.go: what one writes)
//	recover.go     recoverer     checkpoint and log to table (replay.go: in parallel)
//	history.go                   which ids of events a start honours: epochs, what was forgotten
//	devices.go     devices       reading one device; source.go: texts of sources
//	events.go      Events        what happened, to the broadcaster or to a sink
//
// A Follower (follower.go) has devices and a broadcaster, and no log: it gives streams what engines
// elsewhere tell it (states.go).
//
// # Invariants
//
// I1 One order per device. The order of acceptance is the order in the log is the order of the
// frames, because steps 3 to 5 are one critical section per device and step 4 hands out the LSN
// inside it. What could block or fail (step 2, a reference to another source) happens before the
// claim. The turns of a user's devices have one order too: step 4 of each, and what it makes of the
// user's aggregate, is one critical section per user.
//
// I2 Durable before visible. No answer, frame or snapshot shows a change whose record is not as
// durable as the log's sync mode promises. An accepted heartbeat and a stale one both wait for the
// LSN that they saw; events leave the commit loop after the sync; a snapshot leaves out what is
// newer than the last batch that its worker has processed.
//
// I3 Snapshot, then exactly what follows. A stream's snapshot at LSN W holds the devices whose last
// change is at or below W; every later change is still ahead of the stream in its worker's queue.
// No gap, no double, no step back.
//
// I4 A session ends once. Expiry and a late heartbeat race for the same claim; the second one sees
// what the first one did. An expiry is a logged change like any other.
//
// I5 Everything is bounded: the log by its credits, the table by MaxDevices or what was on disk,
// texts of sources by the devices, queues of the broadcaster by bytes, the wheel's queue by what
// heartbeats can file while the loop sleeps.
//
// I6 A failed write or sync of the log is fail-stop: nothing is acknowledged any more and the
// process ends.
//
// I7 Time is passed in. Table, wheel and the broadcaster's workers read no clock. Deadlines are
// monotonic nanoseconds of Options.Clock, counted from receipt, and saturate.
//
// I8 Silence counts only while the server listened. After a restart, a refused heartbeat, a commit
// or a pause of the process of more than a second, no device expires before
// resume + min(ttl, grace): see expirer.dueAt. After a shorter pause or a slow commit, none expires
// before the process has listened for as long again, so that what came in time has been read: see
// listening.
//
// I9 Times do not go back. The wall clock may, when it is set or a partition gets another owner,
// and a receipt is read before the claim. So a change takes the later of its own receipt and that
// of the device's change before it, under the claim; a turn also that of its user's turn before it,
// under the lock of the aggregate. In the order of LSNs no record of a device, and no turn of a
// user, says an earlier time than the one before. What frames show of a user's last seen is T7 of
// package table. A time that is more than a minute ahead of the clock is of a clock that was wrong,
// and was put right: it does not count. Deadlines are not touched by any of this (I7).
//
// # What a crash loses
//
// With the log's default sync mode: nothing that was acknowledged. Heartbeats in flight may be in
// the log or not; their daemons were not answered and send the same seq again. Times of receipt are
// in the records, so deadlines survive.
//
// # What idle engines cost
//
// A process may have many engines, one for each partition. What is sized by the largest table (the
// directory of chunks, the texts of sources, huge pages) is made when it is used, and idle loops
// wake at the same instants of the common clock: 64 idle engines together take a few MiB and less
// than 1 % of a core.
package engine
