// Package cluster has several nodes share the users, on replicated logs.
//
// # Terms
//
// A partition is the users that share a log: one engine, one space of LSNs. Its log is a stream of
// the NATS servers that the nodes embed, with a copy on as many nodes as there are Replicas. Its
// owner is the node that leads the copies: it claims the log by a message of its own, whose place
// in the stream is the epoch, reads the log, and then appends to it alone. The edge of a node is
// what its streams follow: a copy of the users that they watch, told by the owners.
//
//	daemon ─► node A: router ─┬─ mine ─────────────────► engine ─► jslog ─► stream, on 3 nodes
//	                          └─ B's: cluster/forward ─► node B: engine ─► jslog ─► stream
//	                                                                │ commits
//	client ◄─ node A: Follower ◄─ Edge ◄── cluster/watch ◄──────── Hub, the owner's
//
// A Node joins the parts. holdings claims and resigns from partitions; directory knows by the
// pulses of all nodes who owns what and who is there; reach notices that this node is cut off;
// drain hands over what it owns; campaigns call for elections when an owner is gone; bootstrap
// makes the cluster, and introduce keeps out an empty directory under a name that has had another.
//
//	cluster/embed      the NATS server, and the bus over it
//	cluster/forward    heartbeats on their way to owners, and their answers
//	cluster/read       questions about users
//	cluster/watch      what owners tell the nodes that have streams
//	cluster/members    nodes leave and are replaced, copies move
//	cluster/transfer   devices go in and out
//
// # Invariants
//
// Inside a partition those of package engine hold.
//
//   - C1: One writer. A message is in a log only if the claim of its writer was the newest one at
//     that place: each append expects the sequence that the one before it got, a claim the last
//     there is, and one append is in flight.
//   - C2: Acknowledged is committed. An answer, a frame and a snapshot wait until a majority of the
//     copies have what they tell of.
//   - C3: Doubt ends the claim. After an error, a silence or an odd acknowledgement the log has
//     failed, what waits for it is refused, and the engine is dropped whole. Nothing is sent again
//     on it: the partition is claimed anew.
//   - C4: LSNs are dense for ever. A claim goes on behind what is committed, and replay refuses a
//     gap, a message of an older claim behind a newer one, and a damaged one.
//   - C5: Reads are vouched for. A table may be that of an owner that was replaced without hearing
//     of it, so what is read of it waits for the acknowledgement of an append that began after the
//     question came. A node that is not sure, since its log does not answer or it is cut off, shows
//     nothing of its tables.
//   - C6: The owner registers a watching node and sends it the states in one step, and then all
//     changes behind them, in order.
//   - C7: What was lost on that way is noticed, and in doubt of a partition a node asks for all of
//     its users anew: a stream is told late, never a step back.
//   - C8: Silence counts only while a node listened. After a claim a device has its TTL, or the
//     grace if that is less, and its silence before is counted by clocks that may be MaxSkew apart.
//   - C9: A node is unready for reasons of its own. That a partition has no owner, or the cluster
//     no leader, is none: all nodes would leave the balancer at once.
//
// # Who owns a partition, and who may think so
//
// Two nodes may believe that they own a partition, for as long as the first does not know of the
// second: neither its pulses nor the leader of the log tell it in time. The log does, at the next
// append:
//
//	node A, owner                    node B
//	append expects 41 ─► 42
//	(cut off)
//	                                 leads the log, claims it: 43
//	                                 answers heartbeats: 44, 45
//	append expects 42: refused, or
//	not acknowledged in 3 s: fails   (C3)
//	a question: vouched for by an
//	append, which fails              (C5)
//
// So nothing that A was asked after B's claim is answered by A.
package cluster
