package jslog

import (
	"context"
	"fmt"
)

// Stream is a replicated list of messages, numbered from 1 on without a gap, from whose front
// messages can be taken away. NATS has one. Any goroutine may call its methods.
type Stream interface {
	// Info returns the sequences of the oldest and of the newest message. A stream without a
	// message has its next sequence as first, and the one before as last.
	Info(ctx context.Context) (first, last uint64, err error)
	// Publish appends data if the newest message is the one with the sequence expect, and returns
	// its own sequence once the message is committed; *WrongLastError when another one is. After
	// any other error the message may be in the stream, or come into it later. The stream does not
	// keep data.
	Publish(ctx context.Context, expect uint64, data []byte) (seq uint64, err error)
	// Read calls fn for the messages with the sequence from and above, in order, up to the newest
	// that it knows of, which may be one behind what was acknowledged. Data is valid during the
	// call. It stops at fn's first error and returns it. Messages may be lost on the way: the
	// caller looks at the sequences.
	Read(ctx context.Context, from uint64, fn func(seq uint64, data []byte) error) error
	// Purge takes all messages with a lower sequence away.
	Purge(ctx context.Context, before uint64) error
}

// WrongLastError says that a message was refused, and is not in the stream: the newest message was
// another than the expected one.
type WrongLastError struct{ Last uint64 } // Last: the sequence of the newest message

func (e *WrongLastError) Error() string {
	return fmt.Sprintf("jslog: the newest message of the stream is %d, another than expected", e.Last)
}
