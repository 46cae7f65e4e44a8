package broadcast

import "errors"

var (
	// ErrDraining says that Drain or Close was called: new streams are refused.
	ErrDraining = errors.New("broadcast: draining")

	// ErrTooMany says that MaxStreams are open.
	ErrTooMany = errors.New("broadcast: too many streams")

	// ErrTooManyOfUser says that MaxStreamsPerUser follow this user.
	ErrTooManyOfUser = errors.New("broadcast: too many streams of this user")

	errClosed = errors.New("broadcast: connection closed")
)
