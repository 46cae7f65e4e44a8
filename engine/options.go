package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"rollcall/engine/broadcast"
)

// SeqPolicy decides which heartbeats of a known device are accepted.
type SeqPolicy uint8

const (
	// Strict accepts a seq above the last accepted one, nothing else.
	Strict SeqPolicy = iota
	// Restart also accepts a lower or equal seq when sent_at_ms is newer than the last accepted one, for daemons that
	// count from 1 after each restart.
	Restart
)

// ParseSeqPolicy reads "strict" or "restart".
func ParseSeqPolicy(s string) (SeqPolicy, error) {
	switch s {
	case "strict":
		return Strict, nil
	case "restart":
		return Restart, nil
	}
	return 0, fmt.Errorf("engine: seq policy %q: want strict or restart", s)
}

// Options of an Engine. Every zero value is the default that its comment names.
type Options struct {
	// SeqPolicy: Strict.
	SeqPolicy SeqPolicy
	// RecoveryGrace is how long, at most, a device may stay silent after a restart or a stall before it expires: 15 s.
	// Raise it when daemons need longer to find the server again.
	RecoveryGrace time.Duration
	// Patience is how long a heartbeat waits for room in the log before it is refused: 1 s.
	Patience time.Duration
	// MaxDevices bounds the table; a new device over it is refused, known ones go on: 0, what the table can address.
	MaxDevices int
	// Store keeps checkpoints. Nil: none, and the log only grows.
	Store Store
	// ForgetAfter is how long a device stays known after it went offline: 30 days. Forgetting is part of a checkpoint.
	ForgetAfter time.Duration
	// CheckpointBytes is how much the log grows before a checkpoint is taken: 512 MiB. Less makes a restart faster and the
	// log smaller; each checkpoint writes every part of the table that changed.
	CheckpointBytes int64
	// CheckpointEvery is the longest time between two checkpoints, when anything changed: 5 min.
	CheckpointEvery time.Duration
	// Shards of the table, a power of two: 1024.
	Shards int
	// Broadcast tunes the streams; its Codec is the engine's own.
	Broadcast broadcast.Options
	// Logger: slog.Default().
	Logger *slog.Logger

	// ObserveLateness is told of each expiry how many seconds after its deadline (see dueAt) it was applied: nobody. The
	// expire loop calls it.
	ObserveLateness func(seconds float64)
	// ObserveDelivery is told of one heartbeat per batch and worker, the first of the batch, how many seconds lay between its
	// receipt and the last write to the streams of the batch's last user: nobody. The broadcaster's workers call it.
	ObserveDelivery func(seconds float64)
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	o, err := o.withDefaults()
	o.Broadcast.Codec = codec{}
	return errors.Join(err, o.Broadcast.Check())
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.RecoveryGrace < 0 || o.Patience < 0 || o.MaxDevices < 0 {
		errs = append(errs, errors.New("engine: RecoveryGrace, Patience and MaxDevices cannot be negative"))
	}
	if o.RecoveryGrace == 0 {
		o.RecoveryGrace = 15 * time.Second
	}
	if o.ForgetAfter < 0 || o.CheckpointBytes < 0 || o.CheckpointEvery < 0 {
		errs = append(errs, errors.New("engine: ForgetAfter, CheckpointBytes and CheckpointEvery cannot be negative"))
	}
	if o.ForgetAfter == 0 {
		o.ForgetAfter = 30 * 24 * time.Hour
	}
	if o.CheckpointBytes == 0 {
		o.CheckpointBytes = 512 << 20
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = 5 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Broadcast.Logger == nil {
		o.Broadcast.Logger = o.Logger
	}
	return o, errors.Join(errs...)
}
