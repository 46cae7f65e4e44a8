package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Event is the state of a device after a heartbeat or after its TTL ran out.
type Event struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Status   Status `json:"status"`
	Source   string `json:"source"`
	// SentAtMS is in unix milliseconds: the daemon's clock, or the server's when a TTL ran out.
	SentAtMS int64  `json:"sent_at_ms"`
	Seq      uint64 `json:"seq"`
	TTLMS    int64  `json:"ttl_ms"`

	// Transition is set when the status differs from the last event that this watch yielded of the
	// device, or there was none.
	Transition bool `json:"-"`
}

// WatchOptions of a Watch. URL, UserID and Token are required. For every other field the zero value
// is the default.
type WatchOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// UserID of the user to follow, a UUID in lowercase.
	UserID string
	// Token returns a new stream token for the user. The watch calls it before the first connect,
	// in the last fifth of the token's time (read from its exp_ms) and when the server refuses it;
	// for a token without an expiry, before each connect. While a stream is open it is called on
	// another goroutine than the loop's.
	Token TokenFunc
	// IdleTimeout is how long a connection may be silent. Default: 45s, three of the server's
	// keepalives.
	IdleTimeout time.Duration
	// MaxBackoff is the longest random wait between two tries. Default: 30s.
	MaxBackoff time.Duration
	// MaxFrameBytes bounds one frame; a longer one interrupts. Default: 64 KiB. A frame of rollcall
	// has at most some 1,200 bytes.
	MaxFrameBytes int

	// HTTPClient makes the requests. Its Timeout and CheckRedirect are not used. Default: one on
	// http.DefaultTransport.
	HTTPClient *http.Client
	// Logger gets connects at debug level and frames that this package cannot read at warn level.
	// Default: none.
	Logger *slog.Logger
}

// maxKnown bounds the devices whose last event a watch remembers (K10). Those of more devices are
// repeated after a reconnect.
const maxKnown = 1 << 16

// Watch follows a user: first the devices as they are, then each change, over as many connections
// as it takes. The loop ends when ctx ends, when the caller leaves it, or after an error that
// another try does not change (a wrong option, a 400).
//
// An error that it yields otherwise is an interruption, with a zero Event: the connection was lost
// or refused. Going on with the loop waits and reconnects. The loop's body may be slow; it delays
// only itself (K7).
func Watch(ctx context.Context, o WatchOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w, err := newWatch(o)
		if err != nil {
			yield(Event{}, err)
			return
		}
		w.yield = yield
		w.follow(ctx)
	}
}

// watch is one loop over Watch. Single owner: the goroutine of the loop.
type watch struct {
	stream
	yield func(Event, error) bool
	known map[string]Event // the last event of each device, without Transition
}

func newWatch(o WatchOptions) (*watch, error) {
	w := &watch{known: map[string]Event{}}
	base, err := w.stream.complete(streamOptions{o.URL, o.Token, o.IdleTimeout, o.MaxBackoff,
		o.MaxFrameBytes, o.HTTPClient, o.Logger})
	if !canonicalID(o.UserID) {
		err = errors.Join(err, fmt.Errorf("client: UserID %q: want a UUID in lowercase", o.UserID))
	}
	target := base + streamPath + "?user_id=" + url.QueryEscape(o.UserID)
	w.request = func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	}
	w.take = func(f frame) bool {
		ev, ok := w.event(f)
		return !ok || w.yield(ev, nil)
	}
	w.interrupted = func(err error) bool { return w.yield(Event{}, err) }
	return w, err
}

// event reads a frame; ok is false for one that says nothing new (K6).
func (w *watch) event(f frame) (ev Event, ok bool) {
	if len(f.data) == 0 || f.event != "" && f.event != "message" {
		return ev, false
	}
	var payload struct {
		SchemaVersion int `json:"schema_version"`
		Event
	}
	err := json.Unmarshal(f.data, &payload)
	ev = payload.Event
	if err != nil || payload.SchemaVersion != 1 || !ev.Status.known() {
		w.logger.Warn("rollcall: a frame that cannot be read is skipped", "bytes",
			len(f.data), "error", err)
		return ev, false
	}
	before, seen := w.known[ev.DeviceID]
	if seen && before == ev {
		return ev, false
	}
	if seen || len(w.known) < maxKnown {
		w.known[ev.DeviceID] = ev
	}
	ev.Transition = !seen || before.Status != ev.Status
	return ev, true
}
