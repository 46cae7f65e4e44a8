// Package conns has the connections of the public listeners, from the accept until they are closed
// or become streams: it admits them within the limits, counts them, and keeps the idle ones
// cheaply. fasthttp serves them.
//
//	kernel ──► listener ──► admit ──► fasthttp ──► Close: closed, suspended, or released to a stream
//	                          │              ▲                       │
//	   a stranger is closed ◄─┘              └─── resume ◄── epoll ◄─┘
//
// A connection over a limit is served as well, some at a time, so that the answer comes behind the
// request: Refused tells the handler. Of a connection from a proxy that sends a PROXY protocol
// header the goroutine that serves it reads the header first; not a byte more is read, so that what
// is below fasthttp stays the kernel's connection.
//
// A stranger is a connection that has shown no valid token. Those of trusted proxies are none.
//
// # An idle connection
//
// A daemon speaks for a millisecond and is silent for half a minute, and fasthttp would hold a
// goroutine, a reader and a request for it all the while: 18 KB, or 30 once a large head has filled
// the reader. After a short wait conn.Read therefore says that the connection has ended, and the
// Close that follows suspends it instead. An epoll finds the idle connections that have input, and
// they come to fasthttp as if they were new, through a listener of their own: a second accept loop,
// so that the first needs no goroutine between it and the kernel. fasthttp has an option that gives
// back the reader and the request (ReduceMemoryUsage) at the price of an allocation per request;
// the goroutine stays.
//
// Not suspended are connections whose first request was not read, since ReadTimeout ends them;
// those over TLS, whose session may hold bytes that the epoll does not know of; and all where there
// is no epoll.
//
// # Invariants
//
//   - P1 A connection is suspended exactly while it is in the map of idle. What takes it out, under
//     mu, owns it: Accept to resume it or because it hung up, the sweep because it waited too long,
//     Close because all end. The others then find it gone.
//
//   - P2 No byte is lost. A connection is suspended only when fasthttp's reader is empty, and the
//     epoll reports what is there when it is added, not only what comes then:
//
//     conn                                 client
//     Read ends for want of input
//     .                                    sends a request
//     suspend ► epoll: input is there
//
//   - P3 A token is used once. A late report, of a connection that was closed or resumed and whose
//     descriptor is another's now, has a token that no connection has.
//
//   - P4 An idle connection counts, for MaxConns and for its address, until it is closed; resuming
//     it changes no count.
//
//   - P5 The ring is in the order of suspending, which is that of the ends of the wait but for
//     IdleAfter. So a sweep looks at those that it closes and at one more, however many are idle.
//
//   - P6 Accept never ends for want of descriptors or memory: the listener waits and tries again,
//     since fasthttp's own loop ends the server on any such error.
//
//   - P7 A client cannot tell an idle connection from one that fasthttp holds.
//
//   - P8 At the limit the stranger that waited longest is closed, so that the next connection can
//     come: one that was not answered yet has a moment for its request first. A connection that
//     has shown a valid token is never closed for another. A stranger is in exactly one ring, of
//     strangers or of idle, from the accept until it is known or closed, so that finding the
//     oldest looks at three connections.
package conns
