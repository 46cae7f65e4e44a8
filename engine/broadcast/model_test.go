package broadcast

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func userOf(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

// model is a table and a log for each source: the codec that a broadcaster reads states from, and
// where tests make changes.
type model struct {
	noUsers

	mu      sync.Mutex
	lsn     []uint64 // by source
	devices map[uuid.UUID][]deviceState
	queued  [][]modelEvent // by source: changed, not published yet

	inBatch func() // called before each Publish; nil: nothing
}

type deviceState struct{ seq, lsn uint64 }

type modelEvent struct {
	user  uuid.UUID
	lsn   uint64
	bytes []byte
}

func newModel() *model { return newModelOf(1) }

func newModelOf(sources int) *model {
	return &model{
		lsn:     make([]uint64, sources),
		devices: make(map[uuid.UUID][]deviceState),
		queued:  make([][]modelEvent, sources),
	}
}

// sourceOf is a user's source: user n is of source n modulo the number of sources.
func (m *model) sourceOf(user uuid.UUID) Source {
	n := binary.BigEndian.Uint64(user[8:]) - 1
	return Source(n % uint64(len(m.lsn)))
}

func (m *model) AppendFrame(dst, event []byte) []byte {
	return append(append(append(dst, "data: "...), event...), "\n\n"...)
}

func (m *model) Ahead(Source, []uuid.UUID) {}

func (m *model) AppendDevices(dst []uint32, source Source, user uuid.UUID) []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if source != m.sourceOf(user) {
		panic("a snapshot of another source than the user's")
	}
	for device := range m.devices[user] {
		dst = append(dst, uint32(device))
	}
	return dst
}

func (m *model) AppendState(
	dst []byte, _ Source, user uuid.UUID, device uint32, after, through uint64,
) (text []byte, newer uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.devices[user][device]
	if d.lsn > through {
		return dst, d.lsn
	}
	if after < d.lsn {
		dst = m.AppendFrame(dst, eventText(int(device), d))
	}
	return dst, 0
}

// noUsers is the part of a Codec that has to do with aggregates, where there are none.
type noUsers struct{}

func (noUsers) Forgotten(Source, uuid.UUID) uint64 { return 0 }

func (noUsers) Turn([]byte) bool { return false }

func (noUsers) AppendUserFrame(dst, _ []byte, _ bool) []byte { return dst }

func (noUsers) Lingers([]byte, time.Duration) time.Duration { return 0 }

func (noUsers) AppendUser(
	dst []byte, _ Source, _ uuid.UUID, _, _ uint64, _ time.Duration,
) (text []byte, a Aggregate) {
	return dst, a
}

func eventText(device int, d deviceState) []byte {
	return fmt.Appendf(nil, "%d %d %d", device, d.seq, d.lsn)
}

// change is an accepted heartbeat: the table has it, the broadcaster does not hear of it before
// flush.
func (m *model) change(user uuid.UUID, device int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.devices[user]) <= device {
		m.devices[user] = append(m.devices[user], deviceState{})
	}
	d := &m.devices[user][device]
	source := m.sourceOf(user)
	m.lsn[source]++
	d.seq++
	d.lsn = m.lsn[source]
	m.queued[source] = append(m.queued[source], modelEvent{user, d.lsn, eventText(device, *d)})
}

// take takes the first n changes of a source that are queued, and the LSN through which they go.
func (m *model) take(source Source, n int) (batch []modelEvent, through uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := m.queued[source]
	m.queued[source] = queue[n:]
	return queue[:n], m.lsn[source] - uint64(len(queue)-n)
}

// flush commits the first n changes of a source that are queued.
func (m *model) flush(b *Broadcaster, source Source, n int) { m.flushSince(b, source, n, 0) }

func (m *model) flushSince(b *Broadcaster, source Source, n int, receivedNanos int64) {
	batch, through := m.take(source, n)
	for _, e := range batch {
		m.publish(b, source, e)
	}
	b.Flush(source, through, receivedNanos)
}

func (m *model) publish(b *Broadcaster, source Source, e modelEvent) {
	if m.inBatch != nil {
		m.inBatch()
	}
	b.Publish(source, e.user, e.lsn, e.bytes)
}

// lose commits the first n changes of a source that are queued, some of them published, and loses
// them.
func (m *model) lose(b *Broadcaster, source Source, n, published int) {
	batch, through := m.take(source, n)
	for i, e := range batch {
		if i == published {
			b.Lose(source)
		}
		m.publish(b, source, e)
	}
	if published >= n {
		b.Lose(source)
	}
	b.Flush(source, through, 0)
}

func (m *model) flushAll(b *Broadcaster) {
	for source := range m.queued {
		m.flush(b, Source(source), len(m.queued[source]))
	}
}

// told is what a stream was told, line by line, checked while it is read.
type told struct {
	last     map[int]deviceState // newest frame of each device
	gaps     int                 // events that were conflated
	frames   int
	comments int
	retry    string
	ended    bool // the last chunk was there
}

// readTold checks what a stream received so far: its head, framing, and that no device ever stands
// still or goes back.
func readTold(t testing.TB, received []byte, head string, chunked bool) told {
	t.Helper()
	if len(received) < len(head) {
		return told{}
	}
	body, ok := bytes.CutPrefix(received, []byte(head))
	if !ok {
		t.Fatalf("begins with %q, not with its head", received[:min(len(received), 40)])
	}
	var r told
	if chunked {
		body, r.ended = dechunk(t, body)
	}
	r.last = make(map[int]deviceState)
	for {
		if rest, ok := bytes.CutPrefix(body, []byte(": keepalive\n")); ok {
			r.comments++
			body = rest
			continue
		}
		block, rest, ok := bytes.Cut(body, []byte("\n\n"))
		if !ok {
			return r
		}
		body = rest
		r.read(t, string(block))
	}
}

func (r *told) read(t testing.TB, block string) {
	t.Helper()
	if retry, ok := strings.CutPrefix(block, "retry: "); ok {
		r.retry = retry
		return
	}
	var device int
	var d deviceState
	if _, err := fmt.Sscanf(block, "data: %d %d %d", &device, &d.seq, &d.lsn); err != nil {
		t.Fatalf("frame %q: %v", block, err)
	}
	before, known := r.last[device]
	if known && d.lsn <= before.lsn || known && d.seq <= before.seq {
		t.Fatalf("device %d went from %v to %v", device, before, d)
	}
	if known && d.seq != before.seq+1 {
		r.gaps++
	}
	r.last[device] = d
	r.frames++
}

// dechunk takes the framing off as far as whole chunks were received.
func dechunk(t testing.TB, p []byte) (body []byte, ended bool) {
	t.Helper()
	for {
		header, rest, ok := bytes.Cut(p, []byte("\r\n"))
		if !ok {
			return body, false
		}
		n, err := strconv.ParseUint(string(header), 16, 31)
		if err != nil {
			t.Fatalf("chunk header %q: %v", header, err)
		}
		if len(rest) < int(n)+2 {
			return append(body, rest...), false
		}
		if string(rest[n:n+2]) != "\r\n" {
			t.Fatalf("chunk of %d bytes ends in %q", n, rest[n:n+2])
		}
		body, p = append(body, rest[:n]...), rest[n+2:]
		if n == 0 {
			if len(p) > 0 {
				t.Fatalf("%q after the last chunk", p)
			}
			return body, true
		}
	}
}

// checkLast compares what a stream was told last with the table.
func (m *model) checkLast(t testing.TB, user uuid.UUID, r told) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for device, d := range m.devices[user] {
		if d.lsn != 0 && r.last[device] != d {
			t.Errorf("device %d is at %v, its stream was told %v", device, d, r.last[device])
		}
	}
}

// fakeConn is a Conn whose room the test decides.
type fakeConn struct {
	t       testing.TB
	onWrite func() // called before each write, without the lock
	held    int    // what Held says

	mu       sync.Mutex
	notifier Notifier
	id       StreamID
	received []byte
	room     int // bytes that it takes now; below 0: all
	refused  bool
	starved  bool // it has refused something at some time
	input    int
	gone     bool
	err      error // of the next writes
	fin      bool
	closed   int
	writes   int
	attach   error
}

func newFakeConn(t testing.TB) *fakeConn { return &fakeConn{t: t, room: -1} }

func (c *fakeConn) Attach(n Notifier, id StreamID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notifier, c.id = n, id
	return c.attach
}

func (c *fakeConn) Write(p []byte) (int, error) {
	if c.onWrite != nil {
		c.onWrite()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed > 0 || c.fin:
		c.t.Error("written to after its end")
	case len(p) == 0:
		c.t.Error("an empty write")
	case c.err != nil:
		return 0, c.err
	}
	c.writes++
	n := len(p)
	if c.room >= 0 && n > c.room {
		n = c.room
		c.refused, c.starved = true, true
	}
	if c.room >= 0 {
		c.room -= n
	}
	c.received = append(c.received, p[:n]...)
	return n, nil
}

func (c *fakeConn) Held() int { return c.held }

func (c *fakeConn) Discard([]byte) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.input
	c.input = 0
	return n, c.gone
}

func (c *fakeConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fin || c.closed > 0 {
		c.t.Error("CloseWrite after its end")
	}
	c.fin = true
	return nil
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed++; c.closed > 1 {
		c.t.Error("closed twice")
	}
	return nil
}

// allow sets the room, and reports it if a write was refused.
func (c *fakeConn) allow(room int) {
	c.mu.Lock()
	c.room = room
	report := c.refused && room != 0
	if report {
		c.refused = false
	}
	n, id := c.notifier, c.id
	c.mu.Unlock()
	if report {
		n.Ready(id, Writable)
	}
}

func (c *fakeConn) send(n int) {
	c.mu.Lock()
	c.input += n
	to, id := c.notifier, c.id
	c.mu.Unlock()
	to.Ready(id, Readable)
}

func (c *fakeConn) hangUp() {
	c.mu.Lock()
	c.gone = true
	to, id := c.notifier, c.id
	c.mu.Unlock()
	to.Ready(id, HangUp)
}

// seen is a copy of the connection's fields.
func (c *fakeConn) seen() (s struct {
	received []byte
	fin      bool
	closed   int
	writes   int
	starved  bool
}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.received = slices.Clone(c.received)
	s.fin, s.closed, s.writes, s.starved = c.fin, c.closed, c.writes, c.starved
	return s
}

// testOptions are for fake connections: one worker, no poller, so that synctest sees everything
// that goes on.
func testOptions(m *model) Options {
	return Options{
		Codec: m, Sources: len(m.lsn), Workers: 1, Seed: 1, portable: true,
		rest:   func() {},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func mustNew(t testing.TB, o Options) *Broadcaster {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const testHead = "HTTP/1.1 200 OK\r\n\r\n"

// subscribe opens a chunked stream on a fake connection.
func subscribe(t testing.TB, b *Broadcaster, user uuid.UUID) *fakeConn {
	t.Helper()
	c := newFakeConn(t)
	source := Source(0)
	if m, ok := b.options.Codec.(*model); ok {
		source = m.sourceOf(user)
	}
	mustSubscribe(t, b, Subscription{
		User: user, Source: source, Conn: c, Head: []byte(testHead), Chunked: true,
	})
	return c
}

func mustSubscribe(t testing.TB, b *Broadcaster, s Subscription) {
	t.Helper()
	if err := b.Subscribe(s); err != nil {
		t.Fatal(err)
	}
}

func (c *fakeConn) told() told {
	c.t.Helper()
	return readTold(c.t, c.seen().received, testHead, true)
}

const second = int64(time.Second)
