// Package server is the HTTP side of rollcall: it turns requests into calls of the engine and the
// engine's answers into bytes. It keeps no presence of its own.
//
//	          public listener (fasthttp)                            admin listener (net/http)
//	accept ► route ► token ► body ► checks ► Heartbeat              page, health, metrics,
//	          │                                  │                  profiles, /debug/presence
//	          │                                  └► one reply of the table
//	          ├► many heartbeats ► group of lines ► checks ► Add ► ... ► Settle ► rejected lines
//	          ├► stream token ► hijack ► Take ► Subscribe: then the broadcaster owns the socket
//	          └► stream token ► list of users ► Users ► slabs, when the log has what they show
//
//	server.go     what joins them         routes.go   the public API on one screen
//	heartbeat.go  one heartbeat           batch.go    many in one request
//	places.go     batches at a time       body.go     a body as it comes (coding.go: packed)
//	stream.go     a stream's takeover     answers.go  replies as bytes
//	liststream.go streams of many users   resume.go   what a cursor's client is owed
//	recent.go     lists of cursors        list.go     a list of users: its token, its body
//	query.go      asking once             slabs.go    the memory of its answers
//	reply/        the table of replies    conns/      accept, limits, loops, idle connections
//	plain.go      one heartbeat in a loop
//	admin/        what operators ask
//
// # Terms
//
// A request is answered by one reply: a row of the table in package reply, which is the whole list
// of what the server can say. A refusal is a reply that says no. A heartbeat's checks run in a
// fixed order and the first that fails answers, so that a client sees the same refusal from every
// version of the server. Package wire has the checks of the body.
//
// # Invariants
//
//   - S1 Nothing of a request outlives its handler. A heartbeat's source points into the request's
//     buffer, which is used again; the engine copies what it keeps before it returns. A decoder
//     keeps a copy of a text's shape and compares it with later texts.
//   - S2 The order of checks is the wire contract's: route, token, size, syntax, fields, seq, rate,
//     durability. So the handler reads the body, not fasthttp (StreamRequestBody): fasthttp would
//     refuse an oversize one before the route is known. A connection whose request was answered
//     without its body is closed, in a way that lets the client read the answer (conns.Linger).
//   - S3 Every answer of the public listener carries the CORS headers, those to malformed requests
//     included, and every error is JSON with a code and a text. No text is taken from the request
//     but an origin that is listed.
//   - S4 Secrets are compared in constant time, all of the list each time (package token). A stream
//     token's claims are not looked at before its signature holds.
//   - S5 Handling a heartbeat allocates nothing in the steady state; a test counts. (fasthttp
//     itself makes one allocation of 24 bytes per request with a streamed body.)
//   - S6 Everything is bounded: connections (503 above), headers, bodies, the time to read and to
//     write them, addresses of the rate limiter, nesting of JSON, batches that are read and
//     worked on at a time, what packed bodies unpack to; lists of users, the bodies with such that
//     are read at a time, what answers to queries hold, the lists that are remembered for cursors.
//     A metric counts each refusal.
//
// The invariants of connections, P1 to P12, are in package conns.
//
// # A heartbeat in a loop
//
// Most heartbeats come on a connection that has sent one before, are whole, and are right. Those
// are served by an event loop (conns), for which plain says what they are: its request line is
// compared, its head read by fasthttp's parser and judged by the functions of head.go, its body
// decoded and checked by the code of the single route, and its answer written by that of
// answers.go. So there is one place for each rule. What is not plain goes to fasthttp with its
// bytes: every refusal, whatever has to wait for room in the log, every other route.
//
// # A batch
//
// A batch is cut into lines while it arrives (wire.Splitter) and applied in groups, in its order,
// so that a request of 10,000 heartbeats needs no more memory than one of fifty: a window, a group
// and the first hundred errors. The checks of a line are the single route's own code. What was
// applied before a body turned out bad stays applied, and the answer says so; holding everything
// back until the end would cost the whole body in memory and buy nothing, since each line is its
// own daemon's.
//
// A packed body is unpacked into the same window and ends as soon as it is over the limit, however
// much it would still become. Its first 64 KiB are read before it takes what unpacking needs: most
// bodies are whole then.
//
// Batches must not make single heartbeats wait: a batch is much work for one request, and a packed
// one is work that its sender did not pay for. So a batch is worked on only with a turn, of which
// there is one fewer than processors; it has none while it waits, for more of its body or for the
// log; it asks for a new one behind each window, first come, first served; and it yields to the
// scheduler after every few groups. What a batch holds while its body comes is bounded by places,
// and a body that comes slowly loses its place when another batch needs one. What was applied is
// committed when the batch ends, or has waited some milliseconds for bytes: streams see it then.
//
//	batch A      read ─ turn ▓▓▓ ─ read ─────── turn ▓▓▓ ─ wait for the log
//	batch B      read ───────── turn ▓▓▓ ─ read ──────── turn ▓▓▓ ─ wait for the log
//	a heartbeat            ▓ wait for the log
//
// # Many users
//
// The routes of many users ask the token first and read the list behind it (readers, listRequest).
// Their bodies have places of their own, as those of batches: one that comes slowly makes room. An
// answer to a query grows by slabs, of which all answers together have a number; it is made before
// anything of it is sent, since only then Users says that all of it is durable (I2).
//
// A cursor says what a client has: of which users, by a digest of the list, through which LSN. A
// client whose list is the same knows all of its users. For one whose list differs the server has
// to find the old list by its digest (recentLists); it comes from memory, so that after a restart
// such a client gets everything. What a cursor cannot tell is left to a whole snapshot: a device
// that was forgotten, a linger that ended while the client was away.
//
// # The takeover of a stream
//
// A stream leaves fasthttp by Hijack without a response, so that neither a goroutine nor a request
// context stays behind. The hijack handler runs outside fasthttp's accounting, and may not run at
// all when the connection breaks first: therefore it alone takes the connection from the engine,
// and limits and draining are checked inside Take and Subscribe, never before. The response head is
// handed to the broadcaster, which writes it first.
package server
