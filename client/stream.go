package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrEnded is an interruption that the server announced: it restarts, or the token's time was over.
var ErrEnded = errors.New("client: the server ended the stream")

// errIdle and errRenew say why the watch closed a connection.
var (
	errIdle  = errors.New("client: the stream was silent for longer than IdleTimeout")
	errRenew = errors.New("client: it is time to renew the token")
)

const (
	// firstBackoff is the bound of the first random wait.
	firstBackoff = time.Second
	// streamHeader names an open stream in the answer to its request.
	streamHeader = "Rollcall-Stream"
	// maxStreamID bounds that name, in bytes; a longer one is none (K10).
	maxStreamID = 256
)

// streamOptions are what the options of every watch have.
type streamOptions struct {
	url           string
	token         TokenFunc
	idleTimeout   time.Duration
	maxBackoff    time.Duration
	maxFrameBytes int
	http          *http.Client
	logger        *slog.Logger
}

// stream is the loop of connections behind each watch: tokens, waits, renewal. Single owner: the
// goroutine of the loop. While a connection is open, token and renewAt belong to keepToken, which
// has returned before the loop looks at them again.
type stream struct {
	streamOptions
	base string // of every route

	// What the watch does: make the request of a connection, without its token; see one opened
	// (may be nil), a frame, an interruption. more is false when the caller has left the loop.
	request     func(ctx context.Context) (*http.Request, error)
	opened      func()
	take        func(f frame) (more bool)
	interrupted func(err error) (more bool)

	left    bool          // the caller left the loop
	token   string        // the last one
	renewAt time.Time     // token serves until then; zero: for one connection
	refused int           // 401s and 403s in a row
	retry   time.Duration // what the server asked for before the end of the stream
	backoff backoff
}

// complete takes the options, with what is unset filled in, and returns the server's base URL.
func (s *stream) complete(o streamOptions) (base string, err error) {
	setDefault(&o.idleTimeout, 45*time.Second, o.idleTimeout == 0)
	setDefault(&o.maxBackoff, 30*time.Second, o.maxBackoff == 0)
	setDefault(&o.maxFrameBytes, 64<<10, o.maxFrameBytes == 0)
	setDefault(&o.logger, slog.New(slog.DiscardHandler), o.logger == nil)
	o.http = httpClient(o.http)
	base, err = endpoint(o.url, "")
	if o.token == nil {
		err = errors.Join(err,
			errors.New("client: Token is missing: it returns stream tokens of the user"))
	}
	if o.idleTimeout < 0 || o.maxBackoff < 0 || o.maxFrameBytes < 0 {
		err = errors.Join(err,
			errors.New("client: IdleTimeout, MaxBackoff and MaxFrameBytes cannot be negative"))
	}
	s.streamOptions, s.base = o, base
	s.backoff = backoff{first: min(firstBackoff, o.maxBackoff), limit: o.maxBackoff}
	return base, err
}

// follow makes connections until ctx ends, the caller leaves, or another try makes no sense.
func (s *stream) follow(ctx context.Context) {
	for s.connect(ctx) {
	}
}

// connect is one connection and the wait after it. It reports whether to go on.
func (s *stream) connect(ctx context.Context) bool {
	s.retry = 0
	err := s.connection(ctx)
	switch {
	case s.left || ctx.Err() != nil:
		return false
	case errors.Is(err, errRenew):
		return true // the watch itself did it: no interruption, no wait
	}
	if !s.interrupted(err) {
		return false
	}
	wait, again := s.pause(err)
	return again && sleep(ctx, wait, nil)
}

// pause is how long to wait after err, and whether another try makes sense.
func (s *stream) pause(err error) (wait time.Duration, again bool) {
	answer := answerOf(err)
	switch {
	case answer == nil && s.retry > 0:
		return min(s.retry, maxRetryAfter), true // the server spreads its clients itself
	case answer == nil:
		return s.backoff.next(), true
	case answer.isTemporary():
		return answer.RetryAfter + s.backoff.next(), true
	case answer.Status == http.StatusBadRequest,
		answer.Status == http.StatusRequestEntityTooLarge:
		return 0, false
	case s.refused == 1:
		return s.backoff.next(), true // with a new token
	}
	return max(answer.RetryAfter, between(refusedPause/2, refusedPause)), true
}

// connection opens one connection and reads it until it ends, with an error in any case.
func (s *stream) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.needToken(ctx); err != nil {
		return err
	}
	idle := time.AfterFunc(s.idleTimeout, func() { cancel(errIdle) })
	defer idle.Stop()
	resp, err := s.open(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	keeping := make(chan struct{})
	go func() {
		defer close(keeping)
		s.keepToken(ctx, streamID(resp), cancel)
	}()
	s.logger.Debug("rollcall: stream open")
	if s.opened != nil {
		s.opened()
	}
	began := time.Now()
	err = s.read(newDecoder(&patientReader{resp.Body, idle, s.idleTimeout}, s.maxFrameBytes))
	if time.Since(began) >= s.maxBackoff { // one that ends at once is a failure too
		s.backoff.reset()
	}
	err = because(ctx, err)
	cancel(nil)
	<-keeping
	return err
}

// because is err, or the reason for which ctx was ended and err came.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// needToken asks for a token unless the one at hand still serves.
func (s *stream) needToken(ctx context.Context) error {
	if time.Now().Before(s.renewAt) {
		return nil
	}
	token, err := s.askToken(ctx)
	if err == nil {
		s.useToken(token)
	}
	return err
}

func (s *stream) askToken(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.idleTimeout)
	defer cancel()
	token, err := s.streamOptions.token(ctx)
	if err != nil {
		return "", fmt.Errorf("client: token: %w", err)
	}
	return token, nil
}

// useToken notes a token and until when it serves.
func (s *stream) useToken(token string) {
	now := time.Now()
	s.renewAt = time.Time{}
	// A token that has expired by this clock may still be good, since the clock may be wrong; and
	// Token may return the old one again. With these the server says when their time is over.
	if left := claimsOf(token).expiry().Sub(now); left > 0 && token != s.token {
		s.renewAt = now.Add(between(left/5*4, left/20*19))
	}
	s.token = token
}

// keepToken renews the token of the open stream id before it ends, until ctx ends. Where that
// cannot be done it ends the connection with errRenew, and the next one takes the new token (K9).
func (s *stream) keepToken(ctx context.Context, id string, end func(error)) {
	wait := backoff{first: firstBackoff, limit: s.maxBackoff}
	for !s.renewAt.IsZero() && sleep(ctx, time.Until(s.renewAt), nil) {
		token, err := s.askToken(ctx)
		switch {
		case err == nil && token == s.token:
			s.renewAt = time.Time{} // there is no other: the server says when its time is over
			return
		case err == nil && id == "":
			s.useToken(token)
			end(errRenew)
			return
		case err == nil:
			err = s.renew(ctx, id, token)
		}
		answer := answerOf(err)
		switch {
		case err == nil:
			s.useToken(token)
			wait.reset()
			s.logger.Debug("rollcall: token renewed")
		case answer != nil && !answer.isTemporary():
			s.logger.Debug("rollcall: token not renewed in place", "error", err)
			s.useToken(token)
			end(errRenew)
			return
		case ctx.Err() == nil: // the old token serves for a while yet
			s.logger.Warn("rollcall: token not renewed yet", "error", err)
			pause := wait.next()
			if answer != nil {
				pause += answer.RetryAfter
			}
			s.renewAt = time.Now().Add(pause)
		}
	}
}

// renew gives an open stream a new token. The error is a StatusError if there was an answer.
func (s *stream) renew(ctx context.Context, id, token string) error {
	ctx, cancel := context.WithTimeout(ctx, s.idleTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		s.base+manyPath+"/"+url.PathEscape(id)+"/token", nil)
	if err != nil {
		return err
	}
	if err := authorize(req, token); err != nil {
		return err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("client: renew the token: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return statusError(resp)
	}
	return nil
}

// streamID is the name of an open stream, "" if the server gave it none.
func streamID(resp *http.Response) string {
	if id := resp.Header.Get(streamHeader); len(id) <= maxStreamID {
		return id
	}
	return ""
}

// claims are what a client reads from its own token: an HMAC token of the wire contract or a JWT.
type claims struct {
	ExpMS   float64  `json:"exp_ms"`
	Exp     float64  `json:"exp"` // of a JWT, in seconds
	UserID  string   `json:"user_id"`
	Sub     string   `json:"sub"` // of a JWT
	UserIDs []string `json:"user_ids"`
}

// claimsOf reads a token's claims; none if it cannot be read.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	payload := parts[0]
	if len(parts) == 3 {
		payload = parts[1]
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return claims{}
	}
	return c
}

// expiry is when the token ends; zero if it does not say.
func (c claims) expiry() time.Time {
	const farthest = 1 << 50 // ms, some 35,000 years: a later one is not a date
	ms := c.ExpMS
	if ms == 0 {
		ms = c.Exp * 1000
	}
	if ms <= 0 || ms > farthest {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

// open makes the request and returns a response whose body is a stream.
func (s *stream) open(ctx context.Context) (*http.Response, error) {
	req, err := s.request(ctx)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Accept-Encoding", "identity") // a proxy that compresses a stream delays it
	req.Header.Set("Cache-Control", "no-cache")
	if err := authorize(req, s.token); err != nil {
		return nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: stream: %w", err)
	}
	if err := s.judge(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// judge decides whether an answer is a stream.
func (s *stream) judge(resp *http.Response) error {
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		s.renewAt = time.Time{}
		s.refused++
		return statusError(resp)
	}
	s.refused = 0
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

// read takes frames until the stream ends.
func (s *stream) read(frames *decoder) error {
	for {
		f, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return ErrEnded
		case err != nil:
			return fmt.Errorf("client: stream: %w", err)
		case f.asked:
			s.retry = f.retry
		}
		if !s.take(f) {
			s.left = true
			return nil
		}
	}
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
