// Package engine is the presence state machine: heartbeats in, events out, silence noticed. It knows nothing of HTTP and
// nothing of files: the log, the text of a frame and the sockets are passed in.
//
// # The way of a heartbeat
//
//	server ──► Heartbeat
//	             1 find     table   lock-free lookup of (user, device); a stale seq ends here
//	             2 reserve  log     credit for the record, before anything is claimed; none left: wait, then refuse
//	             3 claim    table   one CAS makes this goroutine the device's only writer
//	             4 append   log     the record gets its LSN and its place; no I/O, cannot block, cannot fail
//	             5 commit   table   new state, new seq, claim released
//	             6 arm      wheel   only when the new deadline is earlier than the one the wheel already holds
//	             7 wait     log     group commit wakes everyone it covers
//	204 ◄────────┘
//	           commit loop: write ► sync ► committed ──► broadcaster ──► streams
//	           expire loop: tick ► due? ► expire, which is steps 2 to 5 again, with nobody waiting
//
// A Batch does steps 1 to 6 for each of its heartbeats, with the look-ups of a group at a time, and step 7 once: batch.go.
//
// # Invariants
//
// I1 One order per device. The order of acceptance is the order in the log is the order of the frames, because steps 3 to
// 5 are one critical section per device and step 4 hands out the LSN inside it. What could block or fail (step 2, the
// interning of a new source) happens before the claim.
//
// I2 Durable before visible. No answer, frame or snapshot shows a change whose record is not as durable as the log's sync
// mode promises. An accepted heartbeat and a stale one both wait for the LSN that they saw; events leave the commit loop
// after the sync; a snapshot leaves out what is newer than the last batch its worker has processed.
//
// I3 Snapshot, then exactly what follows. A stream's snapshot at LSN W holds the devices whose last change is at or below
// W; every later change is still ahead of the stream in its worker's queue. No gap, no double, no step back.
//
// I4 A session ends once. Expiry and a late heartbeat race for the same claim; whoever gets it second sees what the first
// did. An expiry is a logged change like any other.
//
// I5 Everything is bounded: the log by its credits, the table by MaxDevices, sources by their table, queues of the
// broadcaster by bytes, the wheel's queue by what heartbeats can file while the loop sleeps.
//
// I6 A failed write or sync of the log is fail-stop: nothing is acknowledged any more and the process ends.
//
// I7 Table, wheel and broadcaster read no clock. Deadlines are monotonic nanoseconds since the engine was made, counted
// from receipt, and saturate.
//
// I8 Silence counts only while we listened. After a restart, a refused heartbeat, a commit or a pause of the expire loop
// of more than a second, no device expires before resume + min(ttl, grace): see Engine.dueAt.
//
// # What a crash loses
//
// With the log's default sync mode: nothing that was acknowledged. Heartbeats in flight may be in the log or not; their
// daemons were not answered and send the same seq again. Times of receipt are in the records, so deadlines survive.
package engine
