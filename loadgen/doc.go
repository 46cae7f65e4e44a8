// Package loadgen drives a presence server with heartbeats and streams, measures it from outside,
// and judges what it did. docs/loadgen.md is the user's side; this is the design.
//
// # Shape
//
//	     Run: phases, start, end, tallies by the second          cmd
//	      │ orders (atomics)            ▲ handover (channel)      │
//	┌─────▼─────────────────────────────┴──────────┐              ▼
//	│ worker: one event loop, one thread           │      Report ── table, JSON, page, Compare
//	│   arrivals ─► ledger ─► sender: links ═════► │ server
//	│   crowd ◄──────┘ ◄────── answers ─────────── │
//	│   oracle ◄── streams: watches ◄═ frames ════ │
//	└──────────────────────────────────────────────┘
//
// Users are dealt to workers, and everything of a user stays there: its devices, their heartbeats
// and answers, its streams and what they show. A list follows users of one worker. So the oracle
// compares acknowledged with shown on one goroutine, without locks and without asking which of two
// threads was first.
//
// A worker's parts share its turn (the instant, the stage, timers) and own the rest: crowd has the
// devices, arrivals the schedule, ledger what became of each heartbeat, sender the connections,
// streams the watches, reactor the sockets, meter the figures.
//
// # Terms
//
// A beat is a heartbeat that fell due. A flight is one that was written and not answered. A link
// is a connection that carries heartbeats of any of the worker's devices. A watch is a stream of
// one user, a list is one of many; both are streams, with a socket each. A node is one of several
// targets, by its place; a stream whose node failed moves to the next one and begins anew. A flip
// is a device's pause until it must be offline. A moment is when a heartbeat was due and when it
// was written. Lag is how late the generator itself got to a beat.
//
// # Invariants
//
//   - G1: the schedule knows nothing of the answers. pacer.next depends on the rates and on chance
//     alone; a beat without a free link waits in the queue, and its latency runs.
//   - G2: latency is counted from the due time, over retries, until the heartbeat is known to be
//     accepted. What was never answered is counted with the latency that it had when the run gave
//     up (meter.abandon).
//   - G3: a device has one heartbeat on its way at most, and uses a number until it is known to be
//     accepted. So accepted numbers have no gaps, and a gap on a stream is the server's.
//   - G4: what the network may have done is not blamed on the server: an unanswered heartbeat may
//     be accepted or not; its resend may be answered 409 with its own seq; a frame may come before
//     its 204; a reconnected stream missed what it missed, but does not go back.
//   - G5: a frame is read by position. The contract fixes its bytes, so one that differs is a
//     finding.
//   - G6: a late generator is noticed. Every beat's lag is measured, and a p99 above MaxLag makes
//     the run invalid.
//   - G7: in the steady state nothing allocates per heartbeat, per frame or per event of a list. A
//     watch costs a descriptor and 8 bytes a device; a list 4 bytes a user, and 8 for each device
//     or, with view=users, 24.
//   - G8: a claim about a user's aggregate is made of bounds. When the server applied a heartbeat
//     is not seen, only when it was written and answered; and an event may be MaxWait late. What a
//     list shows must lie between what was so for certain and what may have been (oracle.silence).
//
// # Time
//
// One monotonic clock from the start of the run, read once a turn and after each read. Instants are
// nanoseconds of it. Waits end to the microsecond where the kernel can (epoll_pwait2, timer slack
// of 1 ns), since a generator that sleeps in milliseconds is late or spins. Between two looks at
// the schedule at most one socket is served.
//
// # What is slow, and why that is fine
//
// A request costs one write, one read and a share of an epoll wait. Most of it is the kernel's TCP
// path, so there is nothing to win by batching writes over connections. Pipelining would be several
// times faster and is an option, not the default, since daemons do not do it. Tallies are merged
// four times a second with fresh histograms: some hundred microseconds. The snapshot of every user
// at the end takes its time after the load.
//
// # What was left out
//
// HTTPS and HTTP/2: measure the server behind the proxy that ends them. Several generators at once:
// start several, with different seeds, and read their reports side by side.
package loadgen
