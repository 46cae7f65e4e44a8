package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// View is what a stream of many users tells.
type View string

// The views of the wire contract.
const (
	// ViewUsers tells when a user comes, goes, or has more or fewer devices online. Heartbeats that
	// change nothing cost nothing.
	ViewUsers View = "users"
	// ViewDevices tells each heartbeat of each device.
	ViewDevices View = "devices"
)

const (
	// maxCursor bounds a cursor, in bytes; a longer one is none (K10).
	maxCursor = 1 << 10
	// maxLinger is the contract's bound of linger_ms.
	maxLinger = 10 * time.Minute
)

// Update is one thing that a WatchMany tells: one of User, Device and Sync is set.
type Update struct {
	// User is set with ViewUsers when it differs from what was told of the user before.
	User *User
	// Device is set with ViewDevices when it differs from what was told of the device before.
	Device *Event
	// Gone: the user is not followed any more, or the server has forgotten the device or the user.
	// Status is Offline then, and the Roster has it no more.
	Gone bool
	// Sync is set when all is told that the server knew when the connection was opened.
	Sync *Sync
}

// Sync is the moment from which a Roster is whole.
type Sync struct {
	// Resumed: only what changed since the last connection was sent. Else it was everything, and
	// what the server does not have any more was told as Gone.
	Resumed bool `json:"resumed"`
	Users   int  `json:"users"` // that are followed
}

// WatchManyOptions of a WatchMany. URL and Token are required. For every other field the zero value
// is the default.
type WatchManyOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// UserIDs of the users to follow, as UUIDs. The token has to cover them. Default: those in the
	// token, its user_id and user_ids.
	UserIDs []string
	// Token returns a new stream token. The watch calls it before the first connect, in the last
	// fifth of the token's time (read from its exp_ms or exp) and when the server refuses it; for a
	// token without an expiry, before each connect. While a stream is open it is called on another
	// goroutine than the loop's.
	Token TokenFunc
	// View is what is told. Default: ViewUsers.
	View View
	// Linger is how long a user who has no device online is still shown online, so that a phone
	// that changes cells does not flicker: at most 10 min, with ViewUsers only. Default: 0.
	Linger time.Duration
	// Roster keeps the state of all users, for any goroutine to read, and the place to resume from
	// when another WatchMany follows this one. Default: one of the watch's own.
	Roster *Roster
	// IdleTimeout is how long a connection may be silent. Default: 45s, three of the server's
	// keepalives.
	IdleTimeout time.Duration
	// MaxBackoff is the longest random wait between two tries. Default: 30s.
	MaxBackoff time.Duration
	// MaxFrameBytes bounds one frame; a longer one interrupts. Default: 64 KiB. A frame of rollcall
	// has at most some 1,400 bytes.
	MaxFrameBytes int

	// HTTPClient makes the requests. Its Timeout and CheckRedirect are not used. Default: one on
	// http.DefaultTransport.
	HTTPClient *http.Client
	// Logger gets connects at debug level and frames that this package cannot read at warn level.
	// Default: none.
	Logger *slog.Logger
}

// WatchMany follows many users on one stream: first all as they are, then a Sync, then each change,
// over as many connections as it takes. After a reconnect only what changed meanwhile is told, and
// a Sync (K11). The loop ends when ctx ends, when the caller leaves it, or after an error that
// another try does not change (a wrong option, a 400, a 413).
//
// An error that it yields otherwise is an interruption, with a zero Update: the connection was lost
// or refused. Going on with the loop waits and reconnects. The loop's body may be slow; it delays
// only itself (K7).
func WatchMany(ctx context.Context, o WatchManyOptions) iter.Seq2[Update, error] {
	return func(yield func(Update, error) bool) {
		w, err := newMany(o)
		if err == nil && !w.roster.begin(w.question()) {
			err = errors.New("client: the Roster serves another WatchMany already")
		}
		if err != nil {
			yield(Update{}, err)
			return
		}
		defer w.roster.end()
		w.yield = yield
		w.follow(ctx)
	}
}

// many is one loop over WatchMany. Single owner: the goroutine of the loop.
type many struct {
	stream
	view     View
	linger   time.Duration
	roster   *Roster
	body     []byte          // of the request; nil: the users are those of the token
	followed map[string]bool // of the last request; nil: not known
	yield    func(Update, error) bool
}

func newMany(o WatchManyOptions) (*many, error) {
	setDefault(&o.View, ViewUsers, o.View == "")
	setDefault(&o.Roster, &Roster{}, o.Roster == nil)
	w := &many{view: o.View, linger: o.Linger, roster: o.Roster}
	_, err := w.stream.complete(streamOptions{o.URL, o.Token, o.IdleTimeout, o.MaxBackoff,
		o.MaxFrameBytes, o.HTTPClient, o.Logger})
	refuse := func(bad bool, text string) {
		if bad {
			err = errors.Join(err, errors.New("client: "+text))
		}
	}
	refuse(o.View != ViewUsers && o.View != ViewDevices, fmt.Sprintf("View %q: want %q or %q",
		o.View, ViewUsers, ViewDevices))
	refuse(o.Linger < 0 || o.Linger > maxLinger, fmt.Sprintf("Linger %v: want 0 to %v", o.Linger,
		maxLinger))
	refuse(o.Linger > 0 && o.View == ViewDevices, "Linger is for ViewUsers only")
	if o.UserIDs != nil {
		ids, wrong := canonicalIDs(o.UserIDs)
		err = errors.Join(err, wrong)
		w.body, w.followed = usersBody(ids), setOf(ids)
	}
	w.request, w.stream.opened, w.take = w.ask, w.roster.opened, w.frame
	w.interrupted = func(err error) bool {
		w.roster.setState(Interrupted)
		return w.yield(Update{}, err)
	}
	return w, err
}

func (w *many) question() question {
	return question{w.base, w.view, w.linger.Milliseconds()}
}

// ask makes the request of one connection.
func (w *many) ask(ctx context.Context) (*http.Request, error) {
	if w.roster.State() == Synced {
		w.roster.setState(Connecting) // to renew the token: no interruption
	}
	if !w.settle() {
		return nil, errRenew // the caller left: connect looks at that first
	}
	query := url.Values{"view": {string(w.view)}}
	if ms := w.linger.Milliseconds(); ms > 0 {
		query.Set("linger_ms", strconv.FormatInt(ms, 10))
	}
	method, target := http.MethodGet, w.base+manyPath+"?"+query.Encode()
	if w.body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(w.body))
	if err != nil {
		return nil, err
	}
	if w.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if cursor := w.roster.resumeFrom(); cursor != "" {
		req.Header.Set("Last-Event-ID", cursor)
	}
	return req, nil
}

// settle tells of the users that this connection does not follow any more: a resume is silent about
// them. It reports whether the caller wants more.
func (w *many) settle() bool {
	if w.body == nil {
		c := claimsOf(w.token)
		if c.UserID == "" {
			c.UserID = c.Sub
		}
		w.followed = nil
		if ids, err := canonicalIDs(append(c.UserIDs, c.UserID)); err == nil {
			w.followed = setOf(ids)
		}
	}
	if w.followed == nil { // the token cannot be read: whom it follows shows a whole snapshot only
		w.roster.setCursor(nil)
		return true
	}
	return w.tell(w.roster.keepOnly(w.followed))
}

// tell yields updates, and reports whether the caller wants more.
func (w *many) tell(updates []Update) bool {
	for _, up := range updates {
		if !w.yield(up, nil) {
			w.left = true
			return false
		}
	}
	return true
}

// frame takes a frame. Its id counts once what it says is in the roster: a cursor is never ahead of
// what was told (K11).
func (w *many) frame(f frame) (more bool) {
	if len(f.data) == 0 {
		return true
	}
	updates := w.read(f)
	if f.id != nil {
		w.roster.setCursor(f.id)
	}
	return w.tell(updates)
}

// read puts what a frame says into the roster and returns what is new in it.
func (w *many) read(f frame) []Update {
	var err error
	switch f.event {
	case "user":
		var payload struct {
			SchemaVersion int `json:"schema_version"`
			User
		}
		u := &payload.User
		err = json.Unmarshal(f.data, &payload)
		if err != nil || payload.SchemaVersion != 1 || !u.Status.known() || w.view != ViewUsers {
			break
		}
		if w.roster.setUser(*u) {
			return []Update{{User: u}}
		}
		return nil
	case "presence":
		var payload struct {
			SchemaVersion int `json:"schema_version"`
			Event
		}
		ev := &payload.Event
		err = json.Unmarshal(f.data, &payload)
		if err != nil || payload.SchemaVersion != 1 || !ev.Status.known() || w.view != ViewDevices {
			break
		}
		if w.roster.setDevice(ev) {
			return []Update{{Device: ev}}
		}
		return nil
	case "synced":
		var s Sync
		if err = json.Unmarshal(f.data, &s); err != nil {
			break
		}
		var gone []Update
		if !s.Resumed {
			gone = w.roster.replace()
		}
		w.roster.setState(Synced)
		return append(gone, Update{Sync: &s})
	default:
		return nil // of a later version
	}
	w.logger.Warn("rollcall: a frame that cannot be read is skipped", "event", f.event, "bytes",
		len(f.data), "error", err)
	return nil
}

func (s Status) known() bool { return s == Online || s == Offline }

// usersBody is the body that names users.
func usersBody(ids []string) []byte {
	body, err := json.Marshal(map[string][]string{"user_ids": ids})
	if err != nil {
		panic("bug: ids that are no JSON: " + err.Error())
	}
	return body
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}
