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
	// AppendID appends the text of the cursor of a client that is at a position. It has no line
	// break.
	AppendID(dst []byte, at Position) []byte
}

// Position is what the client of a list stream has.
type Position struct {
	Through uint64 // it has everything of the stream's users at or below this LSN
	Newest  uint64 // it has states of some of them up to this LSN
	// Synced is false before the end of the first snapshot: the client has everything through
	// Through only of the Known users, and does not know yet whether its cursor was honoured.
	Synced bool
	// Overdue says that it may have been told of a user as online who has had no device online for
	// longer than the linger time, and is to be told otherwise next.
	Overdue bool
	// Nanos is the instant, on the clock of Tick, as of which Overdue is said.
	Nanos int64
}
