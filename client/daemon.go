package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DaemonOptions of a Daemon. URL, Token, UserID, DeviceID and TTL are required. For every other
// field the zero value is the default.
type DaemonOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// Token returns the ingest token. The Daemon calls it before each request, so the token may
	// change at any time.
	Token TokenFunc
	// UserID and DeviceID are lowercase UUIDs. A device is the pair.
	UserID, DeviceID string
	// Source says on the streams what sent the heartbeat, in at most 128 bytes. Default:
	// "rollcall-go".
	Source string
	// TTL is how long the server waits for a heartbeat before it shows the device offline. It
	// should cover three lost heartbeats: 30 s is a good start; less shows an end sooner and costs
	// more requests.
	TTL time.Duration
	// Interval is the longest time between two heartbeats. Default: a third of the TTL.
	Interval time.Duration
	// Timeout bounds one request. Default: the interval, but at least 1 s and at most 10 s.
	Timeout time.Duration
	// Seq is the last seq that is known to be used, for a caller that stores what Daemon.Seq
	// returns. Default: the wall clock's milliseconds (K2).
	Seq uint64

	// HTTPClient makes the requests. Its Timeout and CheckRedirect are not used. Default: one on
	// http.DefaultTransport.
	HTTPClient *http.Client
	// OnError gets the error of every attempt that was not accepted. The Daemon's goroutine calls
	// it and waits for it. Default: none.
	OnError func(error)
	// Logger gets the first failure of a row and its end, the failures between at debug level, and
	// never a token. Default: none.
	Logger *slog.Logger
}

// Daemon sends a device's heartbeats until it is closed. Any goroutine may call its methods.
type Daemon struct {
	options  DaemonOptions
	endpoint string
	http     *http.Client
	logger   *slog.Logger

	online   atomic.Bool   // what the caller wants the device to be
	accepted atomic.Uint64 // the last accepted seq
	wake     chan struct{} // holds one: the status has changed

	closing func()               // ends run's ctx, once
	goodbye chan context.Context // holds one: the context of the first Close
	done    chan struct{}        // closed when run returned; err is set before
	err     error

	// Single owner: the goroutine of run.
	seq      uint64     // the highest that the server may have
	unsure   *heartbeat // sent; whether it was accepted is not known (K1)
	shown    Status     // the status of the last accepted heartbeat; "": not known
	stale    int        // 409s in a row
	failures int        // in a row
	backoff  backoff
}

// StartDaemon begins to send heartbeats with the status Online, the first one at once. The error
// reports every problem of the options. A server that cannot be reached is not an error.
func StartDaemon(o DaemonOptions) (*Daemon, error) {
	url, err := o.complete()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Daemon{
		options:  o,
		endpoint: url,
		http:     httpClient(o.HTTPClient),
		logger:   o.Logger,
		wake:     make(chan struct{}, 1),
		goodbye:  make(chan context.Context, 1),
		closing:  sync.OnceFunc(cancel),
		done:     make(chan struct{}),
		seq:      o.Seq,
		backoff: backoff{first: min(500*time.Millisecond, o.TTL/8),
			limit: min(10*time.Second, o.TTL/2)},
	}
	d.online.Store(true)
	go d.run(ctx)
	return d, nil
}

// complete fills in what is unset, checks the rest and returns the URL of the route.
func (o *DaemonOptions) complete() (string, error) {
	setDefault(&o.Source, "rollcall-go", o.Source == "")
	setDefault(&o.Interval, o.TTL/3, o.Interval == 0)
	setDefault(&o.Timeout, min(max(o.Interval, time.Second), 10*time.Second), o.Timeout == 0)
	setDefault(&o.Seq, uint64(max(time.Now().UnixMilli(), 0)), o.Seq == 0)
	setDefault(&o.Logger, slog.New(slog.DiscardHandler), o.Logger == nil)
	url, err := endpoint(o.URL, heartbeatPath)
	refuse := func(bad bool, text string) {
		if bad {
			err = errors.Join(err, errors.New("client: "+text))
		}
	}
	refuse(o.Token == nil, "Token is missing: use StaticToken for one that never changes")
	refuse(!canonicalID(o.UserID), fmt.Sprintf("UserID %q: want a UUID in lowercase", o.UserID))
	refuse(!canonicalID(o.DeviceID), fmt.Sprintf("DeviceID %q: want a UUID in lowercase",
		o.DeviceID))
	refuse(strings.TrimSpace(o.Source) == "" || len(o.Source) > maxSource,
		fmt.Sprintf("Source must have 1 to %d bytes", maxSource))
	refuse(o.TTL < 10*time.Millisecond, fmt.Sprintf("TTL %v: want at least 10 ms, better 30 s",
		o.TTL))
	refuse(o.Interval < 0 || o.Interval >= o.TTL && o.TTL > 0,
		fmt.Sprintf("Interval %v: want less than the TTL, %v", o.Interval, o.TTL))
	refuse(o.Timeout < 0, "Timeout cannot be negative")
	refuse(o.Seq > maxSeq, fmt.Sprintf("Seq %d: the largest is %d", o.Seq, uint64(maxSeq)))
	return url, err
}

func setDefault[T any](field *T, value T, unset bool) {
	if unset {
		*field = value
	}
}

// SetStatus makes the device Online or Offline; a change is sent at once, or when the wait after a
// failure is over. It does not wait for the answer. An offline device sends nothing until it is
// online again.
func (d *Daemon) SetStatus(s Status) {
	if d.online.Swap(s == Online) != (s == Online) {
		select {
		case d.wake <- struct{}{}:
		default: // run has not looked at the last change yet, and will see this one too
		}
	}
}

// Seq is the last accepted seq, 0 before the first. Storing it is not needed (K2).
func (d *Daemon) Seq() uint64 { return d.accepted.Load() }

// Close says offline and stops. It tries until ctx ends. After an error the server may show the
// device online until its TTL is over. A later Close waits for the first.
func (d *Daemon) Close(ctx context.Context) error {
	select {
	case d.goodbye <- ctx:
	default:
	}
	d.closing()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
	}
	select {
	case <-d.done: // both at once: the outcome is known
		return d.err
	default:
		return fmt.Errorf("client: offline was not delivered: %w", context.Cause(ctx))
	}
}

// run sends what is due until ctx ends, then says offline.
func (d *Daemon) run(ctx context.Context) {
	defer close(d.done)
	for {
		wait, wake := d.turn(ctx)
		if !sleep(ctx, wait, wake) {
			break
		}
	}
	d.online.Store(false)
	d.err = d.sayOffline(<-d.goodbye)
}

// turn sends one heartbeat if one is due. It returns how long to wait for the next, and what may
// shorten the wait: a change of the status, but not while the server needs rest.
func (d *Daemon) turn(ctx context.Context) (wait time.Duration, wake <-chan struct{}) {
	select {
	case <-d.wake: // due looks at the status now
	default:
	}
	h := d.due()
	if h == nil {
		return math.MaxInt64, d.wake
	}
	began := time.Now()
	err := d.send(ctx, h)
	if ctx.Err() != nil {
		return 0, nil
	}
	if err != nil {
		d.report(err)
		return d.pause(err), nil
	}
	if d.failures > 0 {
		d.logger.Info("rollcall: heartbeats are accepted again", "failures", d.failures)
		d.failures = 0
	}
	return between(d.options.Interval*3/4, d.options.Interval) - time.Since(began), d.wake
}

// due is the heartbeat to send now: the unsure one again if its status is still right, else a new
// one. It is nil when the device is offline and the server shows that.
func (d *Daemon) due() *heartbeat {
	status := Offline
	if d.online.Load() {
		status = Online
	}
	switch {
	case d.unsure != nil && d.unsure.Status == status:
		return d.unsure
	case d.unsure == nil && status == Offline && d.shown == Offline:
		return nil
	}
	return &heartbeat{
		SchemaVersion: 1,
		UserID:        d.options.UserID,
		DeviceID:      d.options.DeviceID,
		Status:        status,
		Source:        d.options.Source,
		SentAtMS:      max(time.Now().UnixMilli(), 0),
		Seq:           d.seq + 1,
		TTLMS:         d.options.TTL.Milliseconds(),
	}
}

// send makes one attempt and notes what is known after it. Nil: h was accepted, now or before.
func (d *Daemon) send(ctx context.Context, h *heartbeat) error {
	ctx, cancel := context.WithTimeout(ctx, d.options.Timeout)
	defer cancel()
	err := d.post(ctx, h)
	answer := answerOf(err)
	switch {
	case err == nil, h == d.unsure && answer.saysLast(h.Seq):
		d.accept(h)
		return nil
	case answer.isConflict():
		d.resume(h, answer)
	case answer.isRefusal(), errors.Is(err, errNotSent):
		// Refused: the seq is still free, unless it was unsure before.
	default:
		d.unsure, d.seq = h, h.Seq
	}
	return err
}

func (d *Daemon) accept(h *heartbeat) {
	d.unsure, d.seq, d.shown = nil, h.Seq, h.Status
	d.accepted.Store(h.Seq)
	d.backoff.reset()
	d.stale = 0
}

// resume goes on from the last seq that a 409 names. A 409 that names none is the original
// service's: then the wall clock is the best guess. Which program sent that seq is not known, and
// so neither is the status that the server shows.
func (d *Daemon) resume(h *heartbeat, conflict *StatusError) {
	last := uint64(max(time.Now().UnixMilli(), 0))
	if conflict.lastSeq != nil {
		last = *conflict.lastSeq
	}
	d.unsure, d.shown, d.seq, d.stale = nil, "", max(h.Seq, last), d.stale+1
}

// resumed reports whether err is a 409 after which the next seq is known: no failure yet, unless it
// comes again.
func (d *Daemon) resumed(err error) bool { return d.stale == 1 && answerOf(err).isConflict() }

// pause is how long to wait after err.
func (d *Daemon) pause(err error) time.Duration {
	answer := answerOf(err)
	switch {
	case d.resumed(err):
		return 0
	case answer == nil:
		return d.backoff.next()
	case answer.isConflict(), answer.isTemporary():
		return answer.RetryAfter + d.backoff.next()
	}
	return max(answer.RetryAfter, between(refusedPause/2, refusedPause))
}

// report logs err and passes it to the caller.
func (d *Daemon) report(err error) {
	level := slog.LevelDebug
	if !d.resumed(err) {
		if d.failures == 0 {
			level = slog.LevelWarn
		}
		d.failures++
	}
	d.logger.Log(context.Background(), level, "rollcall: heartbeat not accepted", "error", err)
	if d.options.OnError != nil {
		d.options.OnError(err)
	}
}

// sayOffline tries until ctx ends or the server refuses for good.
func (d *Daemon) sayOffline(ctx context.Context) error {
	d.backoff.reset()
	for {
		h := d.due()
		if h == nil {
			return nil
		}
		err := d.send(ctx, h)
		if err == nil {
			continue
		}
		answer := answerOf(err)
		final := answer != nil && !answer.isTemporary() && !answer.isConflict()
		if final || !sleep(ctx, d.pause(err), nil) {
			return fmt.Errorf("client: offline was not delivered: %w", err)
		}
	}
}
