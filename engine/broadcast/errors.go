package broadcast

import "errors"

var (
	// ErrDraining: the broadcaster takes no new streams, since Drain or Close was called.
	ErrDraining = errors.New("broadcast: draining")

	// ErrTooMany: MaxStreams are open.
	ErrTooMany = errors.New("broadcast: too many streams")

	// ErrTooManyOfUser: MaxStreamsPerUser follow this user.
	ErrTooManyOfUser = errors.New("broadcast: too many streams of this user")

	errClosed = errors.New("broadcast: connection closed")
)
