package broadcast

// Reason is why a stream ended.
type Reason uint8

// The reasons, in the order of Stats.Closed.
const (
	ClientGone   Reason = iota // the client closed, or its connection broke
	Slow                       // it took nothing for WriteTimeout
	TokenExpired               // ExpiresNanos has passed
	Drained                    // Drain or Close
	ServerLimit                // it sent more than inputLimit
	Overload                   // its backlog did not fit into PendingBytes
	Failed                     // its connection could not be watched, or failed on our side
	Outdated                   // a device was forgotten of which its client may know too much
	reasons
)

var reasonNames = [reasons]string{
	"client_gone", "slow", "token_expired", "drained", "server_limit", "overload", "failed",
	"outdated",
}

// Reasons is how many reasons there are.
const Reasons = int(reasons)

// String is the reason as metrics name it.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Stats are counts since Start, and gauges. Workers publish theirs once a turn.
type Stats struct {
	Opened uint64          // streams
	Closed [Reasons]uint64 // streams, by reason

	Frames    uint64 // events given to streams, without those in snapshots
	Snapshots uint64 // first snapshots given to streams
	Conflated uint64 // times that a stream got the newest states instead of each event
	Writes    uint64 // calls of Conn.Write
	Bytes     uint64 // written
	Blocked   uint64 // writes that did not fit
	Turns     uint64 // turns of workers

	Overflows     uint64 // times that a worker's queue was full
	DroppedEvents uint64 // events that full queues and Lose dropped; conflated, not lost
	FanOverflows  uint64 // times that a user's frames, or all of a worker, became too long

	Streams      int // including those that are ending
	Users        int // with streams
	Lagging      int // streams whose backlog is full
	BlockedNow   int // streams with a backlog
	InSnapshot   int // streams that wait for more of a snapshot
	Lists        int // of the streams, those of many users
	Follows      int // of these, each user that each follows
	Followed     int // users whom these follow
	Lingering    int // of these follows, users told to be online without a device online
	QueueBytes   int // events waiting for workers
	PendingBytes int // backlogs of streams, and what the system holds in front of them

	QueueLimitBytes, PendingLimitBytes int // bounds of the two above
	MaxStreams, MaxFollows             int
}

// add sums the figures of the workers.
func (s *Stats) add(o *Stats) {
	for i := range s.Closed {
		s.Closed[i] += o.Closed[i]
	}
	s.Opened += o.Opened
	s.Frames += o.Frames
	s.Snapshots += o.Snapshots
	s.Conflated += o.Conflated
	s.Writes += o.Writes
	s.Bytes += o.Bytes
	s.Blocked += o.Blocked
	s.Turns += o.Turns
	s.Overflows += o.Overflows
	s.DroppedEvents += o.DroppedEvents
	s.FanOverflows += o.FanOverflows
	s.Streams += o.Streams
	s.Users += o.Users
	s.Lagging += o.Lagging
	s.BlockedNow += o.BlockedNow
	s.InSnapshot += o.InSnapshot
	s.Lists += o.Lists
	s.Follows += o.Follows
	s.Followed += o.Followed
	s.Lingering += o.Lingering
	s.QueueBytes += o.QueueBytes
	s.PendingBytes += o.PendingBytes
}
