// Package server is the HTTP side of rollcall: it turns requests into calls of the engine and the
// engine's answers into bytes. It keeps no presence of its own.
//
//	           public listener (fasthttp)                              admin listener (net/http)
//	accept ► route ► token ► body ► checks ► engine.Heartbeat           /livez /healthz /readyz /metrics
//	           │                                  │                     /debug/pprof/ /debug/presence, the page
//	           │                                  └► one reply of the table in reply.go
//	           ├► many heartbeats ► a group of lines ► checks ► engine.Apply ► ... ► engine.Settle ► what became of each
//	           └► stream token ► hijack ► engine.Take ► engine.Subscribe: from here the broadcaster owns the socket
//
// # Terms
//
// A request is answered by one reply: a row of the table in reply.go, which is the whole list of
// what this package can say. A refusal is a reply that says no. A heartbeat's checks run in a fixed
// order and the first that fails answers, so that a client sees the same refusal from every version
// of the server.
//
// # What is kept
//
//   - S1 Nothing of a request outlives its handler. A heartbeat's source points into the request's
//     buffer, which is used again; the engine copies what it keeps before it returns. The copy of a
//     text that a shape keeps is compared with later texts, and goes nowhere.
//   - S2 The order of checks is the wire contract's: route, token, size, syntax, fields, seq, rate,
//     durability. So the handler reads the body, not fasthttp (StreamRequestBody): fasthttp would
//     refuse an oversize one before the route is known. A connection whose request was answered
//     without its body is closed, in a way that lets the client read the answer (conn.go, Close).
//   - S3 Every answer of the public listener carries the CORS headers (cors.go), those to malformed
//     requests included, and every error is JSON with a code and a text. No text is taken from the
//     request but an origin that is listed.
//   - S4 Secrets are compared in constant time, all of the list each time, so that neither a
//     token's bytes nor its place in the list can be timed. A stream token's payload is not parsed
//     before its signature holds.
//   - S5 Handling a heartbeat allocates nothing in the steady state; a test counts. (fasthttp
//     itself makes one allocation of 24 bytes per request with a streamed body.)
//   - S6 Everything is bounded: connections (Options.MaxConns and MaxConnsPerIP, answered 503
//     above), headers, bodies, the time to read and to write them, addresses of the rate limiter,
//     nesting of JSON. A metric counts each refusal.
//   - S7 Accept never ends for want of descriptors or memory: the listener waits and tries again
//     (listener.go), since fasthttp's own loop ends the server on any such error.
//   - S8 A daemon's connection that waits for its next request is parked: it costs neither a
//     goroutine nor a buffer. Nobody can tell from outside. What is kept while it is, P1 to P5,
//     stands at lot (park.go).
//
// # The body of a heartbeat
//
// decode.go is a strict single pass over the bytes: exact JSON grammar, exact field names, the last
// duplicate counts, integers written plainly. It does not judge; it remembers each field as a value
// that no check accepts when it was missing or of the wrong type, and heartbeat.go judges in the
// order of the contract. General decoders were tried first: they match names in any case, replace
// bad UTF-8 silently, cannot tell missing from null from zero without pointers, and cost two to six
// times as much and five to thirteen allocations.
//
// # A batch
//
// A batch is cut into lines while it arrives (lines.go) and applied in groups, in its order, so
// that a request of 10,000 heartbeats needs no more memory than one of fifty: a window, a group and
// the first hundred errors. The checks of a line are the single route's own code. What was applied
// before a body turned out bad stays applied, and the answer says so; holding everything back until
// the end would cost the whole body in memory and buy nothing, since each line is its own daemon's.
//
// A compressed body is unpacked into the same window and ends as soon as it is over the limit,
// however much it would still become. How many are unpacked at a time is bounded, since zstd may
// look back 8 MiB.
//
// # An idle connection
//
// A daemon speaks for a millisecond and is silent for half a minute, and fasthttp would hold a
// goroutine, a reader and a request for it all the while: 18 KB. After a short wait conn.Read
// therefore says that the connection has ended, and the Close that follows does not close but
// parks. An epoll finds the parked that have input, and they come to fasthttp as if they were new,
// through a listener of their own: a second accept loop, so that the first needs no goroutine
// between it and the kernel. fasthttp has an option that gives back the reader and the request
// (ReduceMemoryUsage) at the price of an allocation per request; the goroutine stays.
//
// Not parked are connections whose first request was not read, since ReadTimeout ends them; those
// over TLS, whose session may hold bytes that no epoll knows of; and all where there is no epoll.
//
// # The takeover of a stream
//
// A stream leaves fasthttp by Hijack without a response, so that neither a goroutine nor a request
// context stays behind. The hijack handler runs outside fasthttp's accounting, and may not run at
// all when the connection breaks first: therefore it alone takes the connection from the engine,
// and limits and draining are checked inside Take and Subscribe, never before. The response head is
// handed to the broadcaster, which writes it first.
//
// # Identifiers
//
// An id is the canonical 36 characters of an RFC 9562 UUID of version 1 to 8 and the RFC's variant,
// lowercase. The nil and the max UUID have no version and are refused.
package server
