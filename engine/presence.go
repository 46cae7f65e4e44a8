package engine

import (
	"errors"

	"rollcall/record"
	"rollcall/wire"
)

// Status is whether a device is here now.
type Status = record.Status

// The two statuses of the wire contract.
const (
	Offline = record.Offline
	Online  = record.Online
)

// Heartbeat is one validated report of a daemon. The caller owns it and may use it again after
// Engine.Heartbeat or Batch.Add returned.
type Heartbeat struct {
	wire.Heartbeat

	Index int // the caller's number for it in a Batch, which Rejection names

	// Sender decides whether the device may be a new one. Default: it may.
	Sender Sender

	scratch [record.MaxBytes]byte // of the encoded record, so that the hot path does not allocate
	stripe  uint8                 // of the counters; 0: not chosen yet
}

// Sender is where a heartbeat comes from.
type Sender interface {
	// AdmitsNew counts a device that the table does not know and reports whether it may come in.
	// It is asked before anything is reserved for the heartbeat, and must not block. False:
	// the heartbeat is refused with ErrTooManyNew, and the sender has counted and logged it.
	AdmitsNew() bool
}

// Outcome is the engine's answer to a heartbeat.
type Outcome uint8

const (
	// Accepted: applied, and as durable as the log's sync mode promises.
	Accepted Outcome = iota
	// Stale: seq is not above the last accepted one, which Result.LastSeq is.
	Stale
	// Unavailable: refused and not applied, or applied to a log that failed before it was durable.
	// Result.Err says why.
	Unavailable
)

// ErrTooManyDevices is the Result.Err of a new device when Options.MaxDevices are known. The engine
// logs it itself.
var ErrTooManyDevices = errors.New("as many devices are known as the table may hold")

// ErrTooManyDevicesOfUser is the Result.Err of a new device of a user that has
// Options.MaxDevicesPerUser. The engine logs it itself.
var ErrTooManyDevicesOfUser = errors.New("the user has as many devices as one may have")

// ErrTooManyNew is the Result.Err of a new device that its Sender did not admit.
var ErrTooManyNew = errors.New("the sender brought too many new devices")

// ErrNotMine says that another node has the user's partition, or that no node has it: the sender
// comes again. It is the Result.Err of a heartbeat, alone or in a batch, and what Subscribe
// returns. An engine holds one partition and never returns it; what shares users out among engines
// does.
var ErrNotMine = errors.New("the user belongs to another node")

// Result is what Engine.Heartbeat returns.
type Result struct {
	Outcome Outcome
	LastSeq uint64 // set when Stale
	Err     error  // set when Unavailable: why, for the log and the answer's details
	// LogFull says that it is Unavailable because the log had no room, so that it has none for the
	// next one either.
	LogFull bool
}

// Device is a device as /debug/presence shows it.
type Device struct {
	wire.Event
	HeartbeatAtMS uint64 // sent_at_ms of the last online heartbeat
	OfflineAtMS   uint64 // 0 while online
	UpdatedAtMS   uint64
	SeenAtMS      uint64 // receipt of the last online heartbeat, by the server's clock; 0: none
	LSN           uint64 // of its last change
}
