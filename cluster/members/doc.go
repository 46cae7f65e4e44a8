// Package members changes which nodes a cluster has, and where the copies of its logs are.
//
// Three deeds, one at a time in the whole cluster:
//
//	leave     a node in reach gives its copies to others, and is then no member any more
//	replace   a node that is gone is no member any more, and others take its copies
//	balance   one copy goes from the node with the most to the one with the fewest
//
// All of them move copies in the same way, one log after the other: the log gets a copy on another
// node, that copy catches up, and only then the old one is dropped. So at no instant a log has
// fewer copies than before. The raft group of the log changes by one node at a time, and the
// server waits for the catching up by itself ($JS.API.STREAM.PEER.EVACUATE); a deed looks before
// each step that it still may be done, and fails where it may not. What it has done until then is
// whole: the same command, given again, goes on from there.
//
// # What is never done
//
// The servers also have requests that drop a copy at once, and that name a node no member before
// its copies are elsewhere. Copies of acknowledged records have been lost by them, also with every
// write on stable storage. So:
//
//   - M1: no step is begun while any log has no leader, is being moved, or has a copy that is not
//     current: but for those on the node that is to be replaced.
//   - M2: no node is removed that has a copy, or without which there are fewer nodes than copies.
//   - M3: no node is removed as gone that is in reach.
//   - M4: two deeds never run at a time: see lock.
package members
