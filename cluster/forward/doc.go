// Package forward takes heartbeats to the nodes that own their partitions, and brings back what
// came of them.
//
//	entry node                                            owner
//	Heartbeat, Send ► lane of the node ─ message ──────► Receiver ► inbox of the partition
//	                    │ a message leaves when few are                │ apply: what has come
//	                    │ unanswered, when it is full,                 ▼ together, in its order
//	                    ▼ or after a moment                          settle: in the order of LSNs
//	Sink.Told ◄──────── lane ◄────── answers ────────────────────────┘
//
// The node's own partitions go the same way, but for the bus.
//
// A heartbeat is sent once: what is lost, with its answer or without, is Unavailable after Timeout,
// and its sender resends it with the same seq. So a stale answer is always the owner's judgement of
// the one heartbeat that was sent (F1), and heartbeats for one device that were given to a lane one
// after the other are applied in this order, or not at all (F2).
//
// Everything is bounded:
//
//	what                                     how many            beyond
//	heartbeats of a message                  MaxBeats            the next message
//	heartbeats of a node without an answer   maxWaiting          Send waits, then no room
//	heartbeats in the inbox of a partition   maxInbox            refused at once: no room
//	how long one waits for its answer        Timeout             Unavailable
package forward
