// Package read answers questions about users on any node of a cluster.
//
//	the user's partition is this node's, and sure     its engine
//	a stream here follows the user, and what is       what the streams here were sent
//	  known of it is at most a second old
//	else                                              a request to the owner
//
// What an engine answers is vouched for (C5). A question that finds no owner, or no answer in time,
// is refused with an error that is engine.ErrNotMine. Answers are bounded: the owner leaves out
// what does not fit, and is asked for the rest, until the time for all of it is over. Different
// owners are asked at the same time.
package read
