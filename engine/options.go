package engine

import (
	"fmt"
	"log/slog"
	"time"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/internal/option"
)

// SeqPolicy decides which heartbeats of a known device are accepted.
type SeqPolicy uint8

const (
	// Strict accepts a seq above the last accepted one, nothing else.
	Strict SeqPolicy = iota
	// Restart also accepts a lower or equal seq when sent_at_ms is newer than the last accepted
	// one, for daemons that count from 1 after each restart.
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

// DeviceBudget bounds the devices of several engines together.
type DeviceBudget = table.Budget

// NewDeviceBudget returns a budget of so many devices.
func NewDeviceBudget(devices int) *DeviceBudget { return table.NewBudget(devices) }

// Options of an Engine. The zero value works.
type Options struct {
	// SeqPolicy decides which heartbeats of a known device are accepted. Default: Strict.
	SeqPolicy SeqPolicy
	// RecoveryGrace is how long, at most, a device may stay silent after a restart or a stall
	// before it expires. Raise it when daemons need longer to find the server again. Default: 15s.
	RecoveryGrace time.Duration
	// MaxWait is how long a heartbeat waits for room in the log before it is refused. Default: 1s.
	MaxWait time.Duration
	// MaxDevices bounds the table; a new device over it is refused, known ones go on. What is on
	// disk is served also where it is more. Default: 0, what the table can address.
	MaxDevices int
	// MaxDevicesPerUser bounds the devices of one user, so that the holder of one user's ids cannot
	// make each of its streams and answers as long as it likes. A new device over it is refused,
	// known ones go on. Default: 0, only MaxDevices counts.
	MaxDevicesPerUser int
	// MaxTTL bounds the time after which a device that came from disk goes offline, counted from
	// its last heartbeat, whatever TTL it was accepted with. The TTL of a heartbeat is its sender's
	// and not looked at. Default: 0, no bound.
	MaxTTL time.Duration
	// MaxSkew is how far the wall clock with which a log was written may be behind this process's:
	// where processes of different machines take a log over from each other, devices that were
	// silent before go offline later by it, and none too early. Default: 0, there is one clock.
	MaxSkew time.Duration
	// DeviceBudget bounds the devices of several engines together. Default: none.
	DeviceBudget *DeviceBudget
	// Store keeps checkpoints. Default: none, and the log only grows.
	Store Store
	// ForgetAfter is how long a device stays known after it went offline. Forgetting is part of a
	// checkpoint. Default: 30 days.
	ForgetAfter time.Duration
	// CheckpointBytes is how much the log grows before a checkpoint is taken. Less makes a restart
	// faster and the log smaller; each checkpoint writes every part of the table that changed.
	// Default: 1 GiB.
	CheckpointBytes int64
	// CheckpointEvery is the longest time between two checkpoints, when anything changed.
	// Default: 5m.
	CheckpointEvery time.Duration
	// Shards of the table, a power of two. Default: 1024.
	Shards int

	// Clock is the process's clock. Everything that compares instants with the engine's needs the
	// same one. Default: a new one.
	Clock Clock
	// Events takes the engine's events. Set it when several engines share one broadcaster.
	// Default: an own broadcaster.
	Events Events
	// Source is the name under which Events takes them. The own broadcaster knows 0 only. Default:
	// 0.
	Source broadcast.Source
	// Broadcast tunes the own broadcaster; its Codec is the engine's.
	Broadcast broadcast.Options
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger

	// ObserveLateness gets, for each expiry, the seconds between its deadline (see dueAt) and its
	// application. The expire loop calls it. Default: none.
	ObserveLateness func(seconds float64)
	// ObserveDelivery gets, for one heartbeat of each batch and worker, the seconds between its
	// receipt and the last write to the streams of the batch's last user. The own broadcaster's
	// workers call it. Default: none.
	ObserveDelivery func(seconds float64)
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	option.Default(&o.RecoveryGrace, 15*time.Second)
	option.Default(&o.MaxWait, time.Second)
	option.Default(&o.ForgetAfter, 30*24*time.Hour)
	option.Default(&o.CheckpointBytes, 1<<30)
	option.Default(&o.CheckpointEvery, 5*time.Minute)
	option.Default(&o.Logger, slog.Default())
	option.Default(&o.Broadcast.Logger, o.Logger)
	if o.Clock == nil {
		o.Clock = NewClock()
	}

	problems := option.Problems{Package: "engine"}
	option.NotNegative(&problems, "RecoveryGrace", o.RecoveryGrace)
	option.NotNegative(&problems, "MaxWait", o.MaxWait)
	option.NotNegative(&problems, "MaxDevices", o.MaxDevices)
	option.NotNegative(&problems, "MaxDevicesPerUser", o.MaxDevicesPerUser)
	option.NotNegative(&problems, "MaxTTL", o.MaxTTL)
	option.NotNegative(&problems, "MaxSkew", o.MaxSkew)
	option.NotNegative(&problems, "ForgetAfter", o.ForgetAfter)
	option.NotNegative(&problems, "CheckpointBytes", o.CheckpointBytes)
	option.NotNegative(&problems, "CheckpointEvery", o.CheckpointEvery)
	problems.When(o.Shards < 0 || o.Shards&(o.Shards-1) != 0,
		"Shards is %d, not a power of two", o.Shards)
	if o.Events == nil {
		problems.When(o.Source != 0, "Source is %d, but the own broadcaster has only source 0",
			o.Source)
		streams := o.Broadcast
		streams.Codec = codec{}
		problems.Add(streams.Check())
	}
	return o, problems.Err()
}
