package wire

import "rollcall/record"

const (
	// MaxBodyBytes bounds the body of a request with one heartbeat, and each heartbeat of a batch.
	MaxBodyBytes = 16 << 10
	// MaxBatchBytes bounds the body of a batch, as it is sent and unpacked.
	MaxBatchBytes = 4 << 20
	// MaxSourceBytes bounds a heartbeat's source, trimmed.
	MaxSourceBytes = record.MaxSourceBytes
	// MaxInteger is the largest integer that a JavaScript number holds exactly, 2^53-1; no number
	// of a heartbeat is larger.
	MaxInteger = 1<<53 - 1
)
