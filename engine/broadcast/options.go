package broadcast

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/google/uuid"
)

// Codec turns events into the text of frames. Workers call it concurrently, for different users.
type Codec interface {
	// AppendFrame appends the text of one event's frame. event is what Publish was given.
	AppendFrame(dst, event []byte) []byte

	// AppendSnapshot appends the newest frame of each of the user's devices whose last change has
	// after < LSN <= through, as the table of the source has it. A device that has changed since is left
	// out: the worker that asks has not taken its event yet (B2). AppendSnapshot must not block, nor call
	// back into the broadcaster.
	AppendSnapshot(dst []byte, source Source, user uuid.UUID, after, through uint64) []byte
}

// Options of a Broadcaster. Only Codec is required.
type Options struct {
	// Codec encodes frames and snapshots.
	Codec Codec

	// Sources is how many sources there are: 0 to Sources-1. Default: 1.
	Sources int

	// Workers is how many goroutines write to streams; a user's streams all belong to one of them.
	// Default GOMAXPROCS, at most 256.
	Workers int

	// QueueBytes bounds the events that wait for one worker (8 MiB). A worker that falls further behind loses
	// its queue and brings its streams up to date with the newest state of each device instead. Memory for
	// three such queues can be in use per worker: being collected, waiting, being worked on.
	QueueBytes int

	// BacklogBytes bounds what is kept for one stream that takes nothing for the moment (64 KiB), a snapshot
	// aside, which is as long as the user has devices. Beyond it the stream lags and gets conflated.
	BacklogBytes int

	// PendingBytes bounds the backlogs of one worker's streams together (64 MiB). Near it streams lag at
	// once; a stream whose half-written chunk does not fit is closed (Overload).
	PendingBytes int

	// Keepalive is the silence after which a stream gets a comment, so that proxies and dead peers are noticed.
	// 0: never.
	Keepalive time.Duration

	// WriteTimeout is how long a stream may take nothing of what it is owed before it is closed (30 s).
	WriteTimeout time.Duration

	// RetryMin and RetryMax bound the random reconnect delay that streams are told at a planned end (1 s, 10 s).
	RetryMin, RetryMax time.Duration

	// MaxStreams bounds the streams open at once (1 << 20). Subscribe answers ErrTooMany beyond it.
	MaxStreams int

	// MaxStreamsPerUser bounds the streams that follow one user, so that who holds one user's tokens cannot take
	// the place of everybody else. Streams that are ending do not count. Subscribe answers ErrTooManyOfUser beyond
	// it. 0: only MaxStreams does.
	MaxStreamsPerUser int

	// Seed of the random choices: the order in which streams are drained, and their reconnect delays. 0: random.
	Seed uint64

	// Delivered is told, with the instant that Flush named, when every stream of a user has been given what it was owed of a batch:
	// written, or added to its backlog. One user per worker is looked at at a time, the one of a batch's last event. Workers
	// call it. Default: nobody.
	Delivered func(receivedNanos int64)

	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger

	// visits is how many streams of one user a turn visits. Tests make it small.
	visits int

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
	setDefault(&o.Sources, 1)
	setDefault(&o.Workers, min(runtime.GOMAXPROCS(0), maxWorkers))
	setDefault(&o.QueueBytes, 8<<20)
	setDefault(&o.BacklogBytes, 64<<10)
	setDefault(&o.PendingBytes, 64<<20)
	setDefault(&o.WriteTimeout, 30*time.Second)
	setDefault(&o.RetryMin, min(time.Second, positiveOr(o.RetryMax, time.Second)))
	setDefault(&o.RetryMax, max(10*time.Second, o.RetryMin))
	setDefault(&o.MaxStreams, 1<<20)
	setDefault(&o.visits, visitsPerUser)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(
		refuse(o.Codec == nil, "Codec is missing"),
		refuse(o.Sources < 0 || o.Sources > maxSources, "Sources is %d, not in 1..%d", o.Sources, maxSources),
		refuse(o.Workers < 0 || o.Workers > maxWorkers, "Workers is %d, not in 1..%d", o.Workers, maxWorkers),
		refuse(o.QueueBytes < 0 || o.QueueBytes > 1<<30, "QueueBytes is %d, not in 1..1 GiB", o.QueueBytes),
		refuse(o.BacklogBytes < 0 || o.BacklogBytes > 1<<30, "BacklogBytes is %d, not in 1..1 GiB", o.BacklogBytes),
		refuse(o.PendingBytes < 0, "PendingBytes is negative"),
		refuse(o.Keepalive < 0, "Keepalive is negative"),
		refuse(o.WriteTimeout < 0, "WriteTimeout is negative"),
		refuse(o.RetryMin < 0 || o.RetryMax < o.RetryMin, "RetryMin..RetryMax is %v..%v", o.RetryMin, o.RetryMax),
		refuse(o.MaxStreams < 0 || o.MaxStreams > maxSlots, "MaxStreams is %d, not in 1..%d", o.MaxStreams, maxSlots),
		refuse(o.MaxStreamsPerUser < 0, "MaxStreamsPerUser is negative"),
	)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func positiveOr(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func refuse(wrong bool, format string, args ...any) error {
	if !wrong {
		return nil
	}
	return fmt.Errorf("broadcast: option "+format, args...)
}
