package broadcast

import "errors"

var (
	// ErrDraining says that Drain or Close was called: new streams are refused.
	ErrDraining = errors.New("broadcast: draining")

	// ErrTooMany says that MaxStreams are open.
	ErrTooMany = errors.New("broadcast: too many streams")

	// ErrTooManyOfUser says that MaxStreamsPerUser follow this user.
	ErrTooManyOfUser = errors.New("broadcast: too many streams of this user")

	// ErrTooManyFollows says that MaxFollows users are followed by list streams.
	ErrTooManyFollows = errors.New("broadcast: too many users followed")

	// ErrTooManyFollowsOfOwner says that the list streams of this owner follow MaxFollowsPerOwner
	// users.
	ErrTooManyFollowsOfOwner = errors.New("broadcast: too many users followed by this owner")

	// ErrNoStream says that there is no stream of that id, or not any more.
	ErrNoStream = errors.New("broadcast: no such stream")

	// ErrUnfit says that Renew's fits refused the stream.
	ErrUnfit = errors.New("broadcast: the stream is another's")

	errClosed = errors.New("broadcast: connection closed")
)
