package broadcast

import (
	"log/slog"
	"runtime"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/option"
)

// Codec turns events into the text of frames. Workers call it concurrently, for different users.
type Codec interface {
	// AppendFrame appends the text of one event's frame. event is what Publish was given.
	AppendFrame(dst, event []byte) []byte

	// Ahead says that AppendDevices and AppendState are about to be called for some users,
	// aheadUsers at most, one after the other: what they look at may be loaded for all at once.
	Ahead(source Source, users []uuid.UUID)

	// AppendDevices appends a name of ours for each of the user's devices, as the table of the
	// source has them, each once: every device that has a state, others perhaps. It must not block
	// for long, and looks at no state.
	AppendDevices(dst []uint32, source Source, user uuid.UUID) []uint32

	// AppendState appends the newest frame of a device that AppendDevices named, some time ago, if
	// its last change has after < LSN <= through, and nothing else. A device that has changed since
	// is left out: the worker that asks has not taken its event yet (B2). A name may have become
	// that of another device; one that came above through is left out, too. newer is the LSN that
	// was above through; 0: none was. AppendState must not block, nor call back into the
	// broadcaster.
	AppendState(
		dst []byte, source Source, user uuid.UUID, device uint32, after, through uint64,
	) (text []byte, newer uint64)

	// Forgotten is the LSN at which a device was forgotten last, of the user or of some others. It
	// is known before the device is gone from AppendDevices.
	Forgotten(source Source, user uuid.UUID) uint64

	// Turn reports whether an event changed its user's aggregate.
	Turn(event []byte) bool

	// AppendUserFrame appends the frame of the user's aggregate after an event that is a turn. With
	// lingers the user is shown as online.
	AppendUserFrame(dst, event []byte, lingers bool) []byte

	// Lingers is for how long from now a user is shown as online after an event that is a turn,
	// since linger is not over; 0: it is, or the user has devices online.
	Lingers(event []byte, linger time.Duration) time.Duration

	// AppendUser appends the frame of a user's aggregate, of its last turn, if after < LSN <=
	// through, or if there is none and after is 0, and nothing else. A user without a device online
	// is shown as online until linger has passed since.
	AppendUser(
		dst []byte, source Source, user uuid.UUID, after, through uint64, linger time.Duration,
	) (text []byte, a Aggregate)
}

// Aggregate is what a Codec says of a user's devices together.
type Aggregate struct {
	LSN     uint64        // of the last turn; 0: there was none
	Online  int           // devices
	Lingers time.Duration // for how long the user is shown as online without a device; 0: it is not
}

// Options of a Broadcaster. Only Codec is required.
type Options struct {
	// Codec encodes frames and snapshots.
	Codec Codec

	// Sources is how many sources there are, with the numbers 0 to Sources-1. Default: 1.
	Sources int

	// Workers is how many goroutines write to streams; all streams of a user belong to one of them.
	// Default: GOMAXPROCS, at most 256.
	Workers int

	// QueueBytes bounds the events that wait for one worker. A worker that falls further behind
	// loses its queue and gives its streams the newest state of each device instead. A worker can
	// use the memory of three such queues: being collected (by source), waiting, being worked on.
	// Default: 8 MiB.
	QueueBytes int

	// BacklogBytes bounds what is kept for one stream whose connection takes nothing for the
	// moment. Beyond it the stream lags and is conflated. Default: 64 KiB.
	BacklogBytes int

	// PendingBytes bounds the backlogs of one worker's streams together, and what the system holds
	// in front of them, some 50 KB each. Near it streams lag at once; a stream whose half-written
	// chunk does not fit is closed (Overload). Default: 64 MiB.
	PendingBytes int

	// Keepalive is the silence after which a stream gets a comment, so that proxies keep the
	// connection and dead peers are noticed. Default: 0, never.
	Keepalive time.Duration

	// WriteTimeout is how long a stream may take nothing of what it is owed before it is closed.
	// Default: 30s.
	WriteTimeout time.Duration

	// RetryMin and RetryMax bound the random part of the reconnect delay that streams are told at a
	// planned end. What is left of the drain and the time of a restart come on top, so RetryMin is
	// what a restart may take longer than usual. Default: 1s and 10s.
	RetryMin, RetryMax time.Duration

	// MaxStreams bounds the streams open at once. Beyond it, Subscribe returns ErrTooMany.
	// Default: 1 << 20.
	MaxStreams int

	// MaxStreamsPerUser bounds the streams that follow one user, and apart from them the list
	// streams of one owner, so that the holder of one user's tokens cannot take the place of all
	// others. Streams that are ending do not count. Beyond it, Subscribe returns ErrTooManyOfUser.
	// Default: 0, only MaxStreams counts.
	MaxStreamsPerUser int

	// MaxFollows bounds the users followed by list streams, each as often as it is followed. Beyond
	// it, Subscribe returns ErrTooManyFollows. Default: 1 << 24.
	MaxFollows int

	// MaxFollowsPerOwner bounds the same for the streams of one owner. Beyond it, Subscribe returns
	// ErrTooManyFollowsOfOwner. Default: 0, only MaxFollows counts.
	MaxFollowsPerOwner int

	// Seed of the random choices: the order in which streams are drained, and their reconnect
	// delays. Default: 0, a random one.
	Seed uint64

	// Delivered gets the receipt time that Flush named when every stream of a user has been given
	// what it was owed of that batch: written, or added to its backlog. One user per worker is
	// measured at a time, that of a batch's last event. Workers call it. Default: none.
	Delivered func(receivedNanos int64)

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger

	// visits is how many streams of one user a turn visits. Tests make it small.
	visits int

	// budget is what a turn may spend, and piece what a piece of a snapshot may cost. Tests make
	// them small.
	budget, piece int

	// debts is how many events list streams may be owed in all. Tests make it small.
	debts int

	// rest is what a worker does after a turn that spent its budget. Tests do not wait.
	rest func()

	// portable holds sockets with goroutines even where there is a poller.
	portable bool
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults is a copy with every field set, or every problem at once.
func (o Options) withDefaults() (Options, error) {
	option.Default(&o.Sources, 1)
	option.Default(&o.Workers, min(runtime.GOMAXPROCS(0), maxWorkers))
	option.Default(&o.QueueBytes, 8<<20)
	option.Default(&o.BacklogBytes, 64<<10)
	option.Default(&o.PendingBytes, 64<<20)
	option.Default(&o.WriteTimeout, 30*time.Second)
	retryMin := time.Second
	if o.RetryMax > 0 {
		retryMin = min(retryMin, o.RetryMax)
	}
	option.Default(&o.RetryMin, retryMin)
	option.Default(&o.RetryMax, max(10*time.Second, o.RetryMin))
	option.Default(&o.MaxStreams, 1<<20)
	option.Default(&o.MaxFollows, 1<<24)
	option.Default(&o.visits, visitsPerUser)
	option.Default(&o.budget, turnBudget)
	option.Default(&o.piece, pieceCost)
	option.Default(&o.debts, maxDebts)
	option.Default(&o.Logger, slog.Default())
	if o.rest == nil {
		o.rest = func() { time.Sleep(restTime) }
	}

	p := option.Problems{Package: "broadcast"}
	within := func(name string, value, limit int) {
		p.When(value < 0 || value > limit, "%s is %d: it has to be in 1..%d", name, value, limit)
	}
	p.When(o.Codec == nil, "Codec is missing")
	within("Sources", o.Sources, maxSources)
	within("Workers", o.Workers, maxWorkers)
	within("QueueBytes", o.QueueBytes, 1<<30)
	within("BacklogBytes", o.BacklogBytes, 1<<30)
	within("MaxStreams", o.MaxStreams, maxSlots)
	option.NotNegative(&p, "PendingBytes", o.PendingBytes)
	option.NotNegative(&p, "Keepalive", o.Keepalive)
	option.NotNegative(&p, "WriteTimeout", o.WriteTimeout)
	option.NotNegative(&p, "RetryMin", o.RetryMin)
	p.When(o.RetryMax < o.RetryMin, "RetryMax is %v, below RetryMin, %v", o.RetryMax, o.RetryMin)
	option.NotNegative(&p, "MaxStreamsPerUser", o.MaxStreamsPerUser)
	option.NotNegative(&p, "MaxFollows", o.MaxFollows)
	option.NotNegative(&p, "MaxFollowsPerOwner", o.MaxFollowsPerOwner)
	return o, p.Err()
}
