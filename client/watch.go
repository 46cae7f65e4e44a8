package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
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

// ErrEnded is an interruption that the server announced: it restarts, or the token's time was over.
var ErrEnded = errors.New("client: the server ended the stream")

// errIdle and errRenew say why the watch closed a connection.
var (
	errIdle  = errors.New("client: the stream was silent for longer than IdleTimeout")
	errRenew = errors.New("client: it is time to renew the token")
)

// WatchOptions of a Watch. URL, UserID and Token are required. For every other field the zero value
// is the default.
type WatchOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// UserID of the user to follow, a UUID in lowercase.
	UserID string
	// Token returns a new stream token for the user. The watch calls it before the first connect,
	// in the last fifth of the token's time (read from its exp_ms) and when the server refuses it;
	// for a token without an expiry, before each connect.
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

const (
	// maxKnown bounds the devices whose last event a watch remembers (K10). Those of more devices
	// are repeated after a reconnect.
	maxKnown = 1 << 16
	// firstBackoff is the bound of the first random wait.
	firstBackoff = time.Second
)

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
		for w.connect(ctx) {
		}
	}
}

// watch is one loop over Watch. Single owner: the goroutine of the loop.
type watch struct {
	options WatchOptions
	url     string
	http    *http.Client
	yield   func(Event, error) bool
	left    bool             // the caller left the loop
	known   map[string]Event // the last event of each device, without Transition
	token   string           // the last one
	renew   time.Time        // token serves until then; zero: for one connection
	refused int              // 401s and 403s in a row
	retry   time.Duration    // what the server asked for before the end of the stream
	backoff backoff
}

func newWatch(o WatchOptions) (*watch, error) {
	setDefault(&o.IdleTimeout, 45*time.Second, o.IdleTimeout == 0)
	setDefault(&o.MaxBackoff, 30*time.Second, o.MaxBackoff == 0)
	setDefault(&o.MaxFrameBytes, 64<<10, o.MaxFrameBytes == 0)
	setDefault(&o.Logger, slog.New(slog.DiscardHandler), o.Logger == nil)
	base, err := endpoint(o.URL, streamPath)
	if !canonicalID(o.UserID) {
		err = errors.Join(err, fmt.Errorf("client: UserID %q: want a UUID in lowercase", o.UserID))
	}
	if o.Token == nil {
		err = errors.Join(err,
			errors.New("client: Token is missing: it returns stream tokens of the user"))
	}
	if o.IdleTimeout < 0 || o.MaxBackoff < 0 || o.MaxFrameBytes < 0 {
		err = errors.Join(err,
			errors.New("client: IdleTimeout, MaxBackoff and MaxFrameBytes cannot be negative"))
	}
	return &watch{
		options: o,
		url:     base + "?user_id=" + url.QueryEscape(o.UserID),
		http:    httpClient(o.HTTPClient),
		known:   map[string]Event{},
		backoff: backoff{first: min(firstBackoff, o.MaxBackoff), limit: o.MaxBackoff},
	}, err
}

// connect is one connection and the wait after it. It reports whether to go on.
func (w *watch) connect(ctx context.Context) bool {
	w.retry = 0
	err := w.stream(ctx)
	switch {
	case w.left || ctx.Err() != nil:
		return false
	case errors.Is(err, errRenew):
		return true // the watch itself did it: no interruption, no wait
	}
	if !w.yield(Event{}, err) {
		return false
	}
	wait, again := w.pause(err)
	return again && sleep(ctx, wait, nil)
}

// pause is how long to wait after err, and whether another try makes sense.
func (w *watch) pause(err error) (wait time.Duration, again bool) {
	answer := answerOf(err)
	switch {
	case answer == nil && w.retry > 0:
		return min(w.retry, maxRetryAfter), true // the server spreads its clients itself
	case answer == nil:
		return w.backoff.next(), true
	case answer.isTemporary():
		return answer.RetryAfter + w.backoff.next(), true
	case answer.Status == http.StatusBadRequest:
		return 0, false
	case w.refused == 1:
		return w.backoff.next(), true // with a new token
	}
	return max(answer.RetryAfter, between(refusedPause/2, refusedPause)), true
}

// stream opens one connection and yields from it until it ends, with an error in any case.
func (w *watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := w.needToken(ctx); err != nil {
		return err
	}
	idle := time.AfterFunc(w.options.IdleTimeout, func() { cancel(errIdle) })
	defer idle.Stop()
	resp, err := w.open(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	if !w.renew.IsZero() {
		renew := time.AfterFunc(time.Until(w.renew), func() { cancel(errRenew) })
		defer renew.Stop()
	}
	w.options.Logger.Debug("rollcall: stream open", "user_id", w.options.UserID)
	opened := time.Now()
	err = w.read(newDecoder(&patientReader{resp.Body, idle, w.options.IdleTimeout},
		w.options.MaxFrameBytes))
	if time.Since(opened) >= w.options.MaxBackoff { // one that ends at once is a failure too
		w.backoff.reset()
	}
	return because(ctx, err)
}

// because is err, or the reason for which ctx was ended and err came.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// needToken asks for a token unless the one at hand still serves.
func (w *watch) needToken(ctx context.Context) error {
	now := time.Now()
	if now.Before(w.renew) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.options.IdleTimeout)
	defer cancel()
	token, err := w.options.Token(ctx)
	if err != nil {
		return fmt.Errorf("client: token: %w", err)
	}
	w.renew = time.Time{}
	// A token that has expired by this clock may still be good, since the clock may be wrong; and
	// Token may return the old one again. With these the server says when their time is over.
	if left := expiry(token).Sub(now); left > 0 && token != w.token {
		w.renew = now.Add(between(left/5*4, left/20*19))
	}
	w.token = token
	return nil
}

// expiry reads exp_ms from a stream token, whose format is part of the wire contract; zero if there
// is none to be read.
func expiry(token string) time.Time {
	payload, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	var claims struct {
		ExpMS float64 `json:"exp_ms"`
	}
	const farthest = 1 << 50 // ms, some 35,000 years: a later one is not a date
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.ExpMS <= 0 ||
		claims.ExpMS > farthest {
		return time.Time{}
	}
	return time.UnixMilli(int64(claims.ExpMS))
}

// open makes the request and returns a response whose body is a stream.
func (w *watch) open(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Accept-Encoding", "identity") // a proxy that compresses a stream delays it
	req.Header.Set("Cache-Control", "no-cache")
	if err := authorize(req, w.token); err != nil {
		return nil, err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: stream: %w", err)
	}
	if err := w.judge(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// judge decides whether an answer is a stream.
func (w *watch) judge(resp *http.Response) error {
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		w.renew = time.Time{}
		w.refused++
		return statusError(resp)
	}
	w.refused = 0
	if resp.StatusCode != http.StatusOK {
		return statusError(resp)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil ||
		kind != "text/event-stream" {
		return fmt.Errorf("client: the answer is %q and not a stream: check that URL is the "+
			"server's base URL, and what stands between",
			resp.Header.Get("Content-Type"))
	}
	return nil
}

// read yields events until the stream ends.
func (w *watch) read(frames *decoder) error {
	for {
		f, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return ErrEnded
		case err != nil:
			return fmt.Errorf("client: stream: %w", err)
		case f.asked:
			w.retry = f.retry
		}
		if ev, ok := w.event(f); ok && !w.yield(ev, nil) {
			w.left = true
			return nil
		}
	}
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
	if err != nil || payload.SchemaVersion != 1 || (ev.Status != Online && ev.Status != Offline) {
		w.options.Logger.Warn("rollcall: a frame that cannot be read is skipped", "bytes",
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

// patientReader gives each read of a body the idle time; the time that the loop's body takes does
// not count.
type patientReader struct {
	body  io.Reader
	idle  *time.Timer // gives up the connection
	limit time.Duration
}

func (r *patientReader) Read(p []byte) (int, error) {
	r.idle.Reset(r.limit)
	defer r.idle.Stop()
	return r.body.Read(p)
}
