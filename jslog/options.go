package jslog

import (
	"errors"
	"log/slog"
	"time"

	"rollcall/internal/option"
)

// Why a log refuses. Test with errors.Is.
var (
	// ErrLost says that the log has failed: an append was refused or not acknowledged in time, so
	// that another owner may be at it. What was appended may be stored or not. The log stays
	// failed; claim the stream anew.
	ErrLost = errors.New("jslog: the claim is in doubt")
	// ErrPurged says that the stream was purged while it was read: by a later owner, or by the late
	// purge of an earlier one. Nothing is wrong with it: another claim reads what is left.
	ErrPurged = errors.New("jslog: the stream was purged while it was read: claim it again")
	// ErrUnread says that a stream did not give what it has acknowledged, for Options.AckTimeout:
	// the copy that is read is behind, or cannot be read. Another one may be whole.
	ErrUnread = errors.New("jslog: the stream cannot be read")
	// ErrClosed says that Close was called, or that the log was never started.
	ErrClosed = errors.New("jslog: closed")
	// ErrFull says that no credit came free within the caller's maxWait. Nothing was appended.
	ErrFull = errors.New("jslog: buffer full")
	// ErrStalled says that the append in flight was not acknowledged for some seconds. A record
	// that was appended may be stored or not. The log goes on, or fails, by itself.
	ErrStalled = errors.New("jslog: the stream does not acknowledge an append")
	// ErrTooLarge says that the record is longer than the buffer, or than a record can be.
	ErrTooLarge = errors.New("jslog: record too large")
)

// Options of Claim. The zero value works, but a Store needs the Secret.
type Options struct {
	// Node is the name of this node, which the claim carries for those that read the stream.
	Node string
	// Secret is what Store.Secret returns: the key of the partition's hashes, the same on each
	// node. Default: none.
	Secret []byte
	// AckTimeout is how long an append, or a claim, may be without an acknowledgement before the
	// log fails. Default: 3s.
	AckTimeout time.Duration
	// BufferBytes is the most that can be appended while an append is in flight, and the size of
	// the largest message: 4 KiB to 960 KiB, since NATS takes 1 MiB. Default: 768 KiB.
	BufferBytes int
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
	// ObserveAppend gets, for each append, how many records it carried, none for no-ops and for
	// parts of a checkpoint, and how long it took. The append loop calls it. Default: none.
	ObserveAppend func(records int, took time.Duration)
}

const (
	defaultAckTimeout  = 3 * time.Second
	defaultBufferBytes = 768 << 10
	minBufferBytes     = 4 << 10
	maxBufferBytes     = 960 << 10
)

// Check reports every problem of the options at once, as Claim does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	option.Default(&o.AckTimeout, defaultAckTimeout)
	option.Default(&o.BufferBytes, defaultBufferBytes)
	option.Default(&o.Logger, slog.Default())
	problems := option.Problems{Package: "jslog"}
	option.NotNegative(&problems, "AckTimeout", o.AckTimeout)
	problems.When(o.BufferBytes < minBufferBytes || o.BufferBytes > maxBufferBytes,
		"BufferBytes: a buffer of %d bytes is not within %d and %d",
		o.BufferBytes, minBufferBytes, maxBufferBytes)
	return o, problems.Err()
}
