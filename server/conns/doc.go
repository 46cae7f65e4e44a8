// Package conns has the connections of the public listeners, from the accept until they are closed
// or become streams: it admits them within the limits, counts them, keeps the idle ones cheaply,
// and serves the plain requests of those that have sent one before. fasthttp serves all others.
//
//	kernel ──► listener ──► admit ──► fasthttp ──► Close: closed, released to a stream, or
//	                          │              ▲                                         │
//	   a stranger is closed ◄─┘              └─── returns ◄── giveBack ◄── loop ◄──────┘ enter
//
// A connection over a limit is served as well, some at a time, so that the answer comes behind the
// request: Refused tells the handler. Of a connection from a proxy that sends a PROXY protocol
// header the goroutine that serves it reads the header first; not a byte more is read, so that what
// is below fasthttp stays the kernel's connection.
//
// A stranger is a connection that has shown no valid token. Those of trusted proxies are none.
//
// # A loop
//
// A request costs fasthttp a goroutine that is parked and woken, three deadlines and a commit that
// another goroutine makes: more than what a heartbeat does. And a daemon speaks for a millisecond
// and is silent for half a minute, and fasthttp would hold a goroutine, a reader and a request for
// it all the while: 18 KB, or 30 once a large head has filled the reader. So behind a request that
// a loop could have served (Plain), or after a short wait for the next one, conn.Read says that the
// connection has ended, and the Close that follows has it enter a loop instead, with nothing but
// its descriptor. loop.go has the picture of a turn. What is a plain request, and what is done for
// it, is not known here: Requests is.
//
// A connection comes back to fasthttp through a listener of its own, as if it were new: a second
// accept loop, so that the first needs no goroutine between it and the kernel. fasthttp has an
// option that gives back the reader and the request of an idle connection (ReduceMemoryUsage) at
// the price of an allocation per request; the goroutine stays.
//
// Never in a loop are connections whose first request was not read, since ReadTimeout ends them;
// those over TLS, whose session may hold bytes that the epoll does not know of; and all where there
// is no epoll. Strangers wait in one, and every request of theirs is fasthttp's.
//
// # Invariants
//
//   - P1 A connection is a loop's exactly while it has a slot. What takes it out, under the loop's
//     mu, owns it: giveBack to let fasthttp serve it, drop to close it. A look-up by its token then
//     finds it gone.
//
//   - P2 No byte is lost. A connection enters only when fasthttp's reader is empty, and the epoll
//     is level-triggered: it reports what is there, not only what comes. What a loop has read and
//     not applied goes to fasthttp with the connection, in front of what is still in the socket.
//
//     conn                                 client
//     Read says that it ended
//     .                                    sends a request
//     enter ► epoll: input is there
//
//   - P3 A token is used once. A late report, of a connection that was closed or went back and
//     whose slot or descriptor is another's now, has a token that no connection has.
//
//   - P4 A connection in a loop counts, for MaxConns and for its address, until it is closed; going
//     in and out changes no count.
//
//   - P5 A ring is in the order of the ends of the wait but for IdleAfter and sweepEvery. So a
//     sweep looks at those that it parts with and at one more, however many there are.
//
//   - P6 Accept never ends for want of descriptors or memory: the listener waits and tries again,
//     since fasthttp's own loop ends the server on any such error.
//
//   - P7 A client cannot tell a connection in a loop from one that fasthttp holds: the same
//     answers, the same ends.
//
//   - P8 At the limit the stranger that waited longest is closed, so that the next connection can
//     come: one that was not answered yet has a moment for its request first. A connection that
//     has shown a valid token is never closed for another. A stranger is in exactly one ring, of
//     strangers or of the first loop, from the accept until it is known or closed, so that finding
//     the oldest looks at three connections.
//
//   - P9 A request is applied once. A loop applies what is plain and whole, and answers for it; the
//     first that is not, and all bytes behind it, are fasthttp's, for which nothing was done.
//
//   - P10 Answers come in the order of the requests. Turns are answered in the order in which they
//     were applied, each once, since an answer is taken out of owing with mu held; and a connection
//     goes back when all that it is owed is written.
//
//   - P11 A loop waits for the epoll, and for nothing else with mu held. While its reader is away
//     in a commit, for longer than slowCommit, another one reads.
//
//   - P12 Everything that a connection can make a loop keep is bounded: what a turn reads of it and
//     answers, a part of a request (and for how long), the answers that it does not read, since
//     nothing more is read of it meanwhile, and the answers that wait for a commit.
package conns
