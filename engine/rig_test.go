package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/wire"
)

// memLog is a Log in memory. Unless it is held, it commits each record as soon as it can, from its
// own goroutine.
type memLog struct {
	mu        sync.Mutex
	cond      *sync.Cond
	records   [][]byte // guarded by mu
	committed uint64   // guarded by mu
	stamp     int64    // guarded by mu: the first of what is not committed
	reserved  int      // guarded by mu: credits out
	full      bool     // guarded by mu: Reserve refuses
	held      bool     // guarded by mu: nothing is committed
	closed    bool     // guarded by mu
	noSpace   atomic.Bool
	stalled   atomic.Int64 // what Committing answers, nanoseconds
	kicks     atomic.Int64 // calls of Kick
	done      chan struct{}
}

var errFull = errors.New("memLog: full")

func newMemLog() *memLog {
	l := &memLog{done: make(chan struct{})}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *memLog) Replay(after uint64, apply func(uint64, []byte) error) error {
	for i, r := range l.records {
		if lsn := uint64(i + 1); lsn > after {
			if err := apply(lsn, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *memLog) Replayed() (uint64, int64, int64) { return uint64(len(l.records)) + 1, 0, 0 }

func (l *memLog) Start(
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration),
) error {
	l.committed = uint64(len(l.records))
	go func() {
		defer close(l.done)
		for {
			l.mu.Lock()
			for !l.closed && (l.held || l.committed == uint64(len(l.records))) {
				l.cond.Wait()
			}
			if l.closed {
				l.mu.Unlock()
				return
			}
			first, batch := l.committed+1, l.records[l.committed:]
			stamp := l.stamp
			l.stamp = 0
			l.committed = uint64(len(l.records))
			last := l.committed
			l.cond.Broadcast()
			l.mu.Unlock()
			committed(first, last, func(yield func([]byte) bool) {
				for _, r := range batch {
					if !yield(r) {
						return
					}
				}
			}, stamp, 0)
		}
	}()
	return nil
}

func (l *memLog) Reserve(int, time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return errFull
	}
	l.reserved++
	return nil
}

func (l *memLog) Release(int) {
	l.mu.Lock()
	l.reserved--
	l.mu.Unlock()
}

func (l *memLog) Append(record []byte, stamp int64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserved--; l.reserved < 0 {
		panic("append without a credit")
	}
	l.records = append(l.records, bytes.Clone(record))
	if l.stamp == 0 {
		l.stamp = stamp
	}
	l.cond.Broadcast()
	return uint64(len(l.records))
}

func (l *memLog) Commit(lsn uint64) error { return l.Wait(lsn) }
func (l *memLog) Kick()                   { l.kicks.Add(1) }

func (l *memLog) Vouch(lsn uint64) error { return l.Wait(lsn) }

func (l *memLog) Wait(lsn uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.committed < lsn {
		l.cond.Wait()
	}
	return nil
}

func (l *memLog) set(change func()) {
	l.mu.Lock()
	change()
	l.cond.Broadcast()
	l.mu.Unlock()
}

func (l *memLog) Committed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed
}

func (l *memLog) Appended() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.records))
}

func (l *memLog) Sync(lsn uint64) error       { return l.Wait(lsn) }
func (l *memLog) TruncateBefore(uint64) error { return nil }
func (l *memLog) Committing() time.Duration   { return time.Duration(l.stalled.Load()) }
func (l *memLog) Stalled() bool               { return l.stalled.Load() > int64(2*time.Second) }
func (l *memLog) Size() (int, int64)          { return 1, 0 }
func (l *memLog) NoSpace() bool               { return l.noSpace.Load() }
func (l *memLog) Failed() <-chan struct{}     { return nil }
func (l *memLog) Err() error                  { return nil }

func (l *memLog) close() {
	l.set(func() { l.closed = true })
	<-l.done
}

// rig is an engine whose clock stands still until a test moves it. Its loops do not run: turn does
// their work.
type rig struct {
	*Engine
	t   *testing.T
	log *memLog
	now *atomic.Int64 // nanoseconds
}

// wallZero is the wall clock at nanosecond 0 of a rig.
const wallZero = 1_700_000_000_000

func newRig(t *testing.T, log *memLog, o Options) *rig {
	t.Helper()
	e, now := newStill(t, log, o)
	return &rig{Engine: e, t: t, log: log, now: now}
}

// newStill makes an engine on any log whose clock stands still until now is changed.
func newStill(t *testing.T, log Log, o Options) (*Engine, *atomic.Int64) {
	t.Helper()
	o.Shards = 4
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	now := new(atomic.Int64)
	now.Store(1)
	o.Clock = stillClock(now)
	e, err := New(log, o)
	if err != nil {
		t.Fatal(err)
	}
	return e, now
}

// stillClock stands still until now, in nanoseconds, is changed.
func stillClock(now *atomic.Int64) Clock {
	return func() Instant {
		n := now.Load()
		return Instant{Nanos: n, WallMS: uint64(wallZero + n/int64(time.Millisecond))}
	}
}

// startRig makes a rig that serves; it is closed with the test.
func startRig(t *testing.T, log *memLog, o Options) *rig {
	t.Helper()
	r := newRig(t, log, o)
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	r.phase.Store(serving)
	t.Cleanup(r.shut)
	return r
}

func (r *rig) shut() {
	r.log.close()
	r.Close(context.Background())
}

// advance moves the clock and runs the expire loop's turns that a timer would have run, one for
// each tick.
func (r *rig) advance(d time.Duration) {
	r.t.Helper()
	for end := r.now.Load() + int64(d); ; {
		for r.expiry.turn(r.now.Load()) <= 0 {
		}
		if r.now.Load() == end {
			return
		}
		r.now.Store(min(end, r.now.Load()+tickNanos/2))
	}
}

// status returns the device's status, its seq and whether it is known.
func (r *rig) device(user, device uuid.UUID) (Device, bool) {
	r.t.Helper()
	records, err := allDevices(r, user)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, rec := range records {
		if rec.Device == device {
			return rec, true
		}
	}
	return Device{}, false
}

func (r *rig) wantStatus(hb *Heartbeat, want Status) Device {
	r.t.Helper()
	rec, ok := r.device(hb.User, hb.Device)
	if !ok || rec.Status != want {
		r.t.Fatalf("at %v: status %d (known %v), want %d", time.Duration(r.now.Load()), rec.Status,
			ok, want)
	}
	return rec
}

func (r *rig) mustAccept(hb *Heartbeat) {
	r.t.Helper()
	if res := r.Heartbeat(hb); res.Outcome != Accepted {
		r.t.Fatalf("seq %d: %+v", hb.Seq, res)
	}
}

func newHeartbeat(seq, ttlMS uint64) *Heartbeat {
	return &Heartbeat{Heartbeat: wire.Heartbeat{
		User: uuid.New(), Device: uuid.New(), Status: Online, Source: []byte("test"),
		SentAtMS: 1000 + seq, Seq: seq, TTLMS: ttlMS,
	}}
}

// frame is one parsed frame and when it was written.
type frame struct {
	device uuid.UUID
	seq    uint64
	status Status
	sentAt uint64
	source string
	at     time.Time
}

func parseFrame(data []byte, at time.Time) frame {
	var f struct {
		Device uuid.UUID `json:"device_id"`
		Status string    `json:"status"`
		Source string    `json:"source"`
		SentAt uint64    `json:"sent_at_ms"`
		Seq    uint64    `json:"seq"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		panic(fmt.Sprintf("a frame of %q: %v", data, err))
	}
	parsed := frame{device: f.Device, seq: f.Seq, sentAt: f.SentAt, source: f.Source, at: at}
	if f.Status == Online.String() {
		parsed.status = Online
	}
	return parsed
}

// testConn is a connection that takes everything at once and remembers it.
type testConn struct {
	mu     sync.Mutex
	buf    []byte
	frames []frame
	more   chan struct{}
}

func newTestConn() *testConn { return &testConn{more: make(chan struct{}, 1)} }

func (c *testConn) Attach(broadcast.Notifier, broadcast.StreamID) error { return nil }
func (c *testConn) Discard([]byte) (int, bool)                          { return 0, false }
func (c *testConn) Held() int                                           { return 0 }
func (c *testConn) CloseWrite() error                                   { return nil }
func (c *testConn) Close() error                                        { return nil }

func (c *testConn) Write(p []byte) (int, error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	for {
		text, rest, ok := bytes.Cut(c.buf, []byte("\n\n"))
		if !ok {
			break
		}
		c.buf = rest
		if data, ok := bytes.CutPrefix(text, []byte("data: ")); ok {
			c.frames = append(c.frames, parseFrame(data, now))
		}
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// waitFrames returns once n frames have arrived.
func (c *testConn) waitFrames(t *testing.T, n int) []frame {
	t.Helper()
	for {
		c.mu.Lock()
		frames := c.frames
		c.mu.Unlock()
		if len(frames) >= n {
			return frames
		}
		testwait.For(t, fmt.Sprintf("frame %d of %d arrives", len(frames)+1, n), c.more)
	}
}

// follow subscribes to a user without framing.
func follow(t *testing.T, e *Engine, user uuid.UUID) *testConn {
	t.Helper()
	c, before := newTestConn(), e.Streams(user)
	if err := e.Subscribe(broadcast.Subscription{User: user, Conn: c}); err != nil {
		t.Fatal(err)
	}
	// One that comes while a batch is published waits for its end.
	testwait.Until(t, "the stream is there", func() bool { return e.Streams(user) > before })
	return c
}
