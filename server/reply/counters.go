package reply

import (
	"cmp"
	"net/http"
	"sync/atomic"
)

// Counters count the answers of the public listener. Any goroutine may use them.
type Counters struct {
	Answers [Count]atomic.Uint64

	// Those refusals of the above that were given to a heartbeat before the engine saw it, and to a
	// stream: some rows of the table serve both.
	Heartbeats, Streams [Count]atomic.Uint64
}

// Refused counts the heartbeats that were refused before the engine saw them, by outcome.
type Refused struct {
	Invalid      uint64
	Unauthorized uint64 // where no token is configured, too
	RateLimited  uint64
	Unavailable  uint64 // lines of a batch behind one that the log had no room for
}

// Refused returns the counts of refused heartbeats.
func (c *Counters) Refused() (n Refused) {
	for r := range Count {
		count := c.Heartbeats[r].Load()
		switch status := r.Status(); {
		case r == Unavailable:
			n.Unavailable += count
		case status == http.StatusUnauthorized || status == http.StatusServiceUnavailable:
			n.Unauthorized += count
		case status == http.StatusTooManyRequests:
			n.RateLimited += count
		default:
			n.Invalid += count
		}
	}
	return n
}

// streamReasons are the reasons for which a stream is not opened. A row that is not among them
// counts as invalid.
var streamReasons = [Count]string{
	Unauthorized:         "unauthorized",
	InvalidToken:         "invalid_token",
	TokenExpired:         "token_expired",
	InsufficientScope:    "insufficient_scope",
	TokenUserMismatch:    "user_mismatch",
	SigningNotConfigured: "not_configured",
	Draining:             "draining",
	NotOwned:             "not_owned",
	TooManyStreams:       "too_many_streams",
	TooManyStreamsOfUser: "too_many_of_user",
	StreamUnavailable:    "failed",

	TooManyFollows:        "too_many_follows",
	TooManyFollowsOfToken: "too_many_follows_of_token",
	TooManyUsers:          "too_many_users",
	BodyTooLarge:          "too_many_users",
	TooManyLists:          "too_many_lists",
}

// StreamsRefused counts the streams that were not opened, by reason. All reasons are there.
func (c *Counters) StreamsRefused() map[string]uint64 {
	counts := map[string]uint64{}
	for r := range Count {
		counts[cmp.Or(streamReasons[r], "invalid")] += c.Streams[r].Load()
	}
	return counts
}
