// Package bench measures what rollcall claims, and in the same pass what a reader would compare it
// with: the ceiling that the machine sets, and the alternatives that one could have used. It is a
// module of its own, so that those stay out of the product's go.mod.
//
//	go test -bench ─┐
//	                ├─► results/short/*.txt, *.json ─► cmd/report ─► docs/benchmarks.md, docs/capacity.md, docs/bench/*.svg
//	rollcall load ──┘        raw: what was printed, behind commit, machine, Go version and command
//	   cmd/measure runs both
//
// # Names
//
// A benchmark's name says its workload in keys: devices (how many are known), procs (goroutines
// that call), appenders (that wait for durability), streams, users, batches (of events between two
// looks at the clients), bytes (of one write), sync (the log's mode, none without a log), cache
// (whether the files that are read are in memory already, warm, or not, cold), checkpoint (whether
// one runs meanwhile), and by, which of the alternatives it is. Everything that differs in by alone
// did the same work in the same process.
//
// # Rules
//
//   - An alternative does all of the work: the same ids, the same check of the seq, the same fields
//     stored. Where a choice had to be made for it, it is the faster one.
//   - A fan-out round ends when every client has read its bytes, an append when it is durable.
//   - A structure is filled once and measured several times; a figure is the median, with the range
//     beside it.
//   - by=ceiling, or what its comment calls the ceiling, leaves out everything but the one step
//     that no alternative can avoid.
//
// # What is not here
//
// The decoder of heartbeats is not exported, and a benchmark is no reason to. cmd/measure runs the
// server's own benchmark of it in the same pass, and cmd/report puts the two side by side.
package bench
