package broadcast

import (
	"time"

	"github.com/google/uuid"
)

// View is what a list stream shows of its users.
type View uint8

// The views.
const (
	ViewDevices View = iota // each event of each device
	ViewUsers               // the user's aggregate, when it changes
)

// List makes a Subscription one of many users. See the package comment.
type List struct {
	// Users are followed: each once, in the order of the snapshot. All of one source. The
	// broadcaster keeps none of it after the stream has opened.
	Users []uuid.UUID

	// The client has everything of the first Known users through After; the others come whole.
	Known int
	After uint64

	// View is what the stream shows.
	View View

	// Linger is how long after a user's last device went offline the stream says so. ViewUsers
	// only. Default: 0, at once.
	Linger time.Duration

	// IDs makes the ids of the events. Required.
	IDs IDs

	// Backend says that the bounds of an owner do not count: for what reads in the name of many.
	Backend bool

	// Resumed is what the synced event says: the client's cursor was honoured.
	Resumed bool
}

// IDs makes the cursors of one stream: the ids of its events. The stream's worker calls it.
type IDs interface {
	// AppendID appends the text of the cursor of a client that has everything of the stream's users
	// through lsn, and states of some of them through newest. It has no line break. synced is false
	// in the middle of the first snapshot: everything is then only what the client's own cursor, if
	// it brought one, says.
	AppendID(dst []byte, lsn, newest uint64, synced bool) []byte
}
