package client

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"
)

// Errors of Gateway.Set.
var (
	ErrGatewayFull   = errors.New("client: the Gateway has MaxDevices devices")
	ErrGatewayClosed = errors.New("client: the Gateway is closed")
)

// DeviceError is the refusal of one device's heartbeat in a batch.
type DeviceError struct {
	UserID, DeviceID string
	Err              *StatusError
}

func (e *DeviceError) Error() string {
	return fmt.Sprintf("client: device %s of user %s: %v", e.DeviceID, e.UserID, e.Err)
}

func (e *DeviceError) Unwrap() error { return e.Err }

// GatewayOptions of a Gateway. URL, Token and TTL are required. For every other field the zero
// value is the default.
type GatewayOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// Token returns the ingest token. The Gateway calls it before each request.
	Token TokenFunc
	// Source says on the streams what sent the heartbeats, in at most 128 bytes. Default:
	// "rollcall-go".
	Source string
	// TTL is how long the server waits for a heartbeat before it shows a device offline: 30 s is a
	// good start.
	TTL time.Duration
	// Interval is the longest time between two heartbeats of a device. Default: a third of the TTL.
	Interval time.Duration
	// Timeout bounds one request. Default: the interval, but at least 1 s and at most 10 s.
	Timeout time.Duration
	// MaxDevices bounds the devices, and with them memory: some 400 B each. Default: 100,000.
	MaxDevices int
	// MaxBatch is how many heartbeats one request carries. Default: 1,000. The server's own bound
	// is 10,000; where it is less, the Gateway finds out.
	MaxBatch int

	// HTTPClient makes the requests. Its Timeout and CheckRedirect are not used. Default: one on
	// http.DefaultTransport.
	HTTPClient *http.Client
	// OnError gets the error of every request that failed, and a DeviceError for each heartbeat
	// that was refused. The Gateway's goroutine calls it and waits for it. Default: none.
	OnError func(error)
	// Logger gets the first failure of a row and its end, the failures between at debug level, and
	// never a token. Default: none.
	Logger *slog.Logger
}

// Gateway speaks for many devices, in batches: it repeats the heartbeats of all that are online,
// and sends a change at once. It is for a program that holds the devices' connections. Any
// goroutine may call its methods.
type Gateway struct {
	options  GatewayOptions
	endpoint string
	http     *http.Client

	wake    chan struct{} // holds one: a device is due now
	closing chan struct{} // closed by the first Close
	cancel  func()        // ends run at once
	done    chan struct{} // closed when run returned; err is set before
	err     error

	mu      sync.Mutex
	closed  bool             // guarded by mu
	members map[pair]*member // guarded by mu; at most MaxDevices
	queue   queue            // guarded by mu; those that are in no batch, by due

	floor uint64 // guarded by mu; no seq of a device that was forgotten is above

	// Single owner: the goroutine of run.
	maxBatch int
	failures int // of requests, in a row
	backoff  backoff
}

type pair struct{ user, device string }

// member is one device of a gateway. Guarded by the gateway's mu.
type member struct {
	pair
	want   Status     // what the caller wants the device to be
	seq    uint64     // the highest that the server may have
	unsure *heartbeat // sent; whether it was accepted is not known (K1)
	stale  int        // 409s in a row
	due    time.Time
	rests  bool // until due, whatever the caller wants: the server refused it
	place  int  // in the queue; -1: in a batch
}

// queue is a heap of members by due.
type queue []*member

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}
func (q *queue) Push(x any) {
	m := x.(*member)
	m.place = len(*q)
	*q = append(*q, m)
}
func (q *queue) Pop() any {
	last := len(*q) - 1
	m := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	m.place = -1
	return m
}

const (
	// maxBodyBytes is when a batch is full, before the server's 4 MiB.
	maxBodyBytes = 3 << 20
	// maxListed is how many rejected lines an answer lists. A batch has no more lines that are sent
	// again, so that each 409 that means "accepted before" is listed.
	maxListed = 100
	// maxBatchAnswer bounds the answer to a batch.
	maxBatchAnswer = 256 << 10
)

// StartGateway makes a Gateway without devices. The error reports every problem of the options.
func StartGateway(o GatewayOptions) (*Gateway, error) {
	url, err := o.complete()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Gateway{
		options: o, endpoint: url, http: httpClient(o.HTTPClient),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), cancel: cancel,
		done: make(chan struct{}), members: map[pair]*member{}, maxBatch: o.MaxBatch,
		backoff: backoff{first: min(500*time.Millisecond, o.TTL/8),
			limit: min(10*time.Second, o.TTL/2)},
	}
	go g.run(ctx)
	return g, nil
}

// complete fills in what is unset, checks the rest and returns the URL of the route.
func (o *GatewayOptions) complete() (string, error) {
	d := DaemonOptions{URL: o.URL, Token: o.Token, Source: o.Source, TTL: o.TTL,
		Interval: o.Interval, Timeout: o.Timeout, Logger: o.Logger}
	d.UserID = "00000000-0000-4000-8000-000000000000" // each device has its own
	d.DeviceID = d.UserID
	_, err := d.complete()
	o.Source, o.Interval, o.Timeout, o.Logger = d.Source, d.Interval, d.Timeout, d.Logger
	setDefault(&o.MaxDevices, 100_000, o.MaxDevices == 0)
	setDefault(&o.MaxBatch, 1000, o.MaxBatch == 0)
	if o.MaxDevices < 0 || o.MaxBatch < 0 {
		err = errors.Join(err, errors.New("client: MaxDevices and MaxBatch cannot be negative"))
	}
	url, _ := endpoint(o.URL, batchPath) // its error is in err
	return url, err
}

// Set makes a device Online or Offline; a change is sent at once, or when the wait after a failure
// is over. It does not wait for the answer. An online device is repeated until it is set Offline,
// and forgotten by the Gateway once that is accepted.
func (g *Gateway) Set(userID, deviceID string, s Status) error {
	if !canonicalID(userID) || !canonicalID(deviceID) {
		return fmt.Errorf("client: user %q, device %q: want UUIDs in lowercase", userID, deviceID)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrGatewayClosed
	}
	id := pair{userID, deviceID}
	m := g.members[id]
	switch {
	case m != nil && m.want == s:
		return nil
	case m != nil:
		m.want = s
		if m.place >= 0 && !m.rests {
			m.due = time.Now()
			heap.Fix(&g.queue, m.place)
		}
	case len(g.members) >= g.options.MaxDevices:
		return ErrGatewayFull
	default:
		m = &member{pair: id, want: s, due: time.Now(),
			seq: max(uint64(max(time.Now().UnixMilli(), 0)), g.floor)} // K2
		g.members[id] = m
		heap.Push(&g.queue, m)
	}
	select {
	case g.wake <- struct{}{}:
	default: // run has not looked since the last change
	}
	return nil
}

// Len is how many devices the Gateway speaks for, those included whose offline is not accepted yet.
func (g *Gateway) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members)
}

// Close says offline for every device and stops. It tries until ctx ends. After an error the server
// may show devices online until their TTL is over. A later Close waits for the first.
func (g *Gateway) Close(ctx context.Context) error {
	if g.close() {
		defer context.AfterFunc(ctx, g.cancel)()
		<-g.done
		return g.err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("client: offline was not delivered: %w", context.Cause(ctx))
	}
}

// close makes every device offline. It reports whether it is the first.
func (g *Gateway) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.closed = true
	now := time.Now()
	for _, m := range g.members {
		m.want, m.due = Offline, now
	}
	heap.Init(&g.queue)
	close(g.closing)
	return true
}

// run sends what is due until the gateway is closed and every device is offline.
func (g *Gateway) run(ctx context.Context) {
	defer close(g.done)
	defer g.cancel()
	for ctx.Err() == nil {
		closing := g.closing
		if g.isClosing() {
			closing = nil // what is to be sent then waits as the server asks
		}
		batch, wait := g.collect()
		if len(batch) == 0 {
			if closing == nil && wait == math.MaxInt64 {
				return // all are offline
			}
			g.sleep(ctx, wait, g.wake, closing)
			continue
		}
		err := g.send(ctx, batch)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		g.report(err)
		if answer := answerOf(err); closing == nil && answer != nil && !answer.isTemporary() &&
			answer.Status != http.StatusRequestEntityTooLarge {
			g.err = fmt.Errorf("client: offline was not delivered: %w", err)
			return
		}
		g.sleep(ctx, g.pause(err), nil, closing)
	}
	g.err = fmt.Errorf("client: offline of %d devices was not delivered: %w", g.Len(),
		context.Cause(ctx))
}

func (g *Gateway) isClosing() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// sleep waits for d, or for one of the channels that is not nil.
func (g *Gateway) sleep(ctx context.Context, d time.Duration, wake, closing <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-closing:
	case <-timer.C:
	}
}

// sent is a heartbeat in a batch.
type sent struct {
	member *member
	beat   *heartbeat
	again  bool // it was sent before, and whether it was accepted is not known
}

// collect takes the devices that are due out of the queue: at most a batch. If none is due, it
// returns how long to wait for the next. Those that are nearly due come along, so that batches grow
// and requests become fewer.
func (g *Gateway) collect() (batch []sent, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if len(g.queue) == 0 {
		return nil, math.MaxInt64
	}
	if left := g.queue[0].due.Sub(now); left > 0 {
		return nil, left
	}
	nearly, again := now.Add(g.options.Interval/20), 0
	for len(g.queue) > 0 && len(batch) < g.maxBatch && again < maxListed &&
		!g.queue[0].due.After(nearly) {
		m := heap.Pop(&g.queue).(*member)
		s := sent{m, m.next(&g.options, now), false}
		if s.again = s.beat == m.unsure; s.again {
			again++
		}
		batch = append(batch, s)
	}
	return batch, 0
}

// next is the heartbeat to send: the unsure one again if its status is still right, else a new one.
func (m *member) next(o *GatewayOptions, now time.Time) *heartbeat {
	if m.unsure != nil && m.unsure.Status == m.want {
		return m.unsure
	}
	return &heartbeat{
		SchemaVersion: 1, UserID: m.user, DeviceID: m.device, Status: m.want, Source: o.Source,
		SentAtMS: max(now.UnixMilli(), 0), Seq: m.seq + 1, TTLMS: o.TTL.Milliseconds(),
	}
}

// body is the lines of a batch, or as many as one request may carry.
func body(batch []sent) (lines []byte, n int) {
	for n < len(batch) && len(lines) < maxBodyBytes {
		line, err := json.Marshal(batch[n].beat)
		if err != nil {
			panic("bug: a heartbeat that is no JSON: " + err.Error())
		}
		lines = append(append(lines, line...), '\n')
		n++
	}
	return lines, n
}

// send makes one request and puts every device of the batch back, with what is known after it. The
// error is about the request: nil when it was answered, whatever became of its lines.
func (g *Gateway) send(ctx context.Context, batch []sent) error {
	lines, n := body(batch)
	reqCtx, cancel := context.WithTimeout(ctx, g.options.Timeout)
	defer cancel()
	answer, err := g.post(reqCtx, lines)
	outcome := judgeBatch(n, answer, err)
	if status := answerOf(err); status != nil &&
		status.Status == http.StatusRequestEntityTooLarge && n > 1 {
		g.maxBatch = max(1, n/2) // the server takes fewer
	}
	refusals := g.settle(batch, n, outcome)
	for _, refusal := range refusals {
		g.options.Logger.Debug("rollcall: heartbeat not accepted", "error", refusal)
		if g.options.OnError != nil {
			g.options.OnError(refusal)
		}
	}
	if err == nil && outcome.unlooked <= n {
		err = &StatusError{Status: http.StatusServiceUnavailable, Code: "unavailable",
			Details: fmt.Sprintf("the log had no room from line %d of %d on", outcome.unlooked, n)}
	}
	if err == nil {
		if g.failures > 0 {
			g.options.Logger.Info("rollcall: batches are accepted again", "failures", g.failures)
		}
		g.failures = 0
		g.backoff.reset()
	}
	return err
}

// pause is how long to wait after a request that failed.
func (g *Gateway) pause(err error) time.Duration {
	answer := answerOf(err)
	switch {
	case answer == nil:
		return g.backoff.next()
	case answer.isTemporary():
		return answer.RetryAfter + g.backoff.next()
	case answer.Status == http.StatusRequestEntityTooLarge && g.failures < 16:
		return 0 // half as many at once
	}
	return max(answer.RetryAfter, between(refusedPause/2, refusedPause))
}

// report logs the error of a request and passes it to the caller.
func (g *Gateway) report(err error) {
	level := slog.LevelDebug
	if g.failures == 0 {
		level = slog.LevelWarn
	}
	g.failures++
	g.options.Logger.Log(context.Background(), level, "rollcall: batch not accepted", "error", err)
	if g.options.OnError != nil {
		g.options.OnError(err)
	}
}

// settle notes what became of each line of a batch of which n were sent, and queues the devices
// again. It returns the refusals.
func (g *Gateway) settle(batch []sent, n int, outcome outcome) (refusals []error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i, s := range batch {
		m := s.member
		m.due, m.rests = now, false
		refusal, what := (*StatusError)(nil), untouched
		if i < n {
			refusal, what = outcome.of(i + 1)
		}
		switch {
		case what == taken, what == refused && s.again && refusal.saysLast(s.beat.Seq):
			g.accept(m, s.beat)
		case what == unknown:
			m.unsure, m.seq = s.beat, s.beat.Seq
		case what == refused:
			if !refusal.isConflict() || m.stale > 0 {
				refusals = append(refusals, &DeviceError{m.user, m.device, refusal})
			}
			rest := g.refuse(m, s.beat, refusal)
			m.due, m.rests = now.Add(rest), rest > 0
		}
		if g.members[m.pair] == m {
			heap.Push(&g.queue, m)
		}
	}
	return refusals
}

// accept notes that a heartbeat was accepted. g.mu is held.
func (g *Gateway) accept(m *member, h *heartbeat) {
	m.unsure, m.seq, m.stale = nil, h.Seq, 0
	switch {
	case m.want != h.Status: // it changed meanwhile
	case m.want == Online:
		m.due = m.due.Add(between(g.options.Interval*3/4, g.options.Interval)) // K3
	default:
		g.floor = max(g.floor, m.seq) // if it comes back within the millisecond
		delete(g.members, m.pair)
	}
}

// refuse notes the refusal of a line and returns how long the device rests. g.mu is held.
func (g *Gateway) refuse(m *member, h *heartbeat, refusal *StatusError) time.Duration {
	switch {
	case refusal.isConflict(): // another program counted: go on from there, as a Daemon does
		last := uint64(max(time.Now().UnixMilli(), 0))
		if refusal.lastSeq != nil {
			last = *refusal.lastSeq
		}
		m.unsure, m.seq = nil, max(h.Seq, last)
		if m.stale++; m.stale == 1 {
			return 0
		}
		return between(g.backoff.limit/2, g.backoff.limit)
	case refusal.isTemporary():
		return between(g.backoff.limit/2, g.backoff.limit)
	case m.want == Offline:
		delete(g.members, m.pair) // it will not be taken another time either
		return 0
	}
	return between(refusedPause/2, refusedPause)
}

// The outcomes of a line.
const (
	untouched = iota // it was not looked at
	taken
	refused
	unknown // it may have been accepted (K1)
)

// outcome is what an answer says of the lines of a batch.
type outcome struct {
	all      int                  // of every line, where there is no other word
	errors   map[int]*StatusError // by line, from 1
	unsure   int                  // from this line on it is not known, up to
	unlooked int                  // this one, from which on no line was looked at
}

// of is what became of a line, and its refusal.
func (o *outcome) of(line int) (*StatusError, int) {
	switch refusal := o.errors[line]; {
	case line >= o.unlooked:
		return nil, untouched
	case refusal != nil:
		return refusal, refused
	case line >= o.unsure:
		return nil, unknown
	}
	return nil, o.all
}

// judgeBatch reads what became of n lines.
func judgeBatch(n int, answer *batchAnswer, err error) outcome {
	o := outcome{all: taken, errors: map[int]*StatusError{}, unsure: n + 1, unlooked: n + 1}
	status := answerOf(err)
	switch {
	case answer != nil:
		o.read(answer)
	case status.isRefusal(), errors.Is(err, errNotSent):
		o.unlooked = 1
	default:
		o.all = unknown
	}
	return o
}

func (o *outcome) read(a *batchAnswer) {
	last := 0
	for i := range a.Errors {
		e := &a.Errors[i]
		last = max(last, e.Line)
		o.errors[e.Line] = &StatusError{Status: e.Status, Code: e.Error, Details: e.Details,
			lastSeq: e.LastSeq}
	}
	if a.Omitted > 0 {
		o.unsure = last + 1 // the lines up to the last that is listed are known
	}
	for _, from := range []int{a.UnavailableFrom, a.Line} {
		if from > 0 {
			o.unlooked = min(o.unlooked, from)
		}
	}
}

// batchAnswer is the body of the answer to a batch, or of a refusal that came after some lines.
type batchAnswer struct {
	Accepted *int        `json:"accepted"`
	Errors   []lineError `json:"errors"`
	Omitted  int         `json:"errors_omitted"`
	// UnavailableFrom and Line are the first line that was not looked at; 0: none.
	UnavailableFrom int `json:"unavailable_from"`
	Line            int `json:"line"`
}

type lineError struct {
	Line    int     `json:"line"`
	Status  int     `json:"status"`
	Error   string  `json:"error"`
	Details string  `json:"details"`
	LastSeq *uint64 `json:"last_seq"`
}

// post sends a batch once. The answer is not nil when it says what became of the lines; the error
// is a StatusError if there was another answer than 200, and wraps errNotSent if nothing was sent.
func (g *Gateway) post(ctx context.Context, lines []byte) (*batchAnswer, error) {
	token, err := g.options.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: token: %w", errNotSent, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.endpoint,
		bytes.NewReader(lines))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if err := authorize(req, token); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: batch: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBatchAnswer))
	if resp.StatusCode != http.StatusOK {
		resp.Body = io.NopCloser(bytes.NewReader(text))
	}
	var answer batchAnswer
	known := err == nil && json.Unmarshal(text, &answer) == nil && answer.Accepted != nil
	switch {
	case resp.StatusCode != http.StatusOK && known && answer.Line > 0:
		return &answer, statusError(resp)
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp)
	case known:
		return &answer, nil
	case err == nil:
		err = errors.New("not the answer to a batch: check URL, and what stands between")
	}
	return nil, fmt.Errorf("client: batch: %w", err)
}
