package broadcast

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// people is a table of users with aggregates, and the log of one source: the codec of the tests of
// list streams, and where they make changes.
type people struct {
	mu      sync.Mutex
	lsn     uint64
	users   []person
	queued  []modelEvent // changed, not published yet
	wall    time.Duration
	epoch   int64  // what Tick tells when wall is 0
	inBatch func() // called before each Publish; nil: nothing

	received  int64  // of the batch that is flushed
	forgotten uint64 // LSN of the last device that was forgotten
}

type person struct {
	devices   []personDevice
	lsn       uint64 // of the last turn
	online    int
	changedAt time.Duration
}

type personDevice struct {
	seq, lsn uint64
	online   bool
}

func newPeople(users int) *people { return &people{users: make([]person, users)} }

// change is an accepted heartbeat of a device that says whether it is online.
func (p *people) change(user, device int, online bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := &p.users[user]
	for len(u.devices) <= device {
		u.devices = append(u.devices, personDevice{})
	}
	d := &u.devices[device]
	p.lsn++
	turn := d.online != online
	if turn {
		u.lsn, u.changedAt = p.lsn, p.wall
		u.online--
		if online {
			u.online += 2
		}
	}
	d.seq, d.lsn, d.online = d.seq+1, p.lsn, online
	p.queued = append(p.queued, modelEvent{userOf(user), p.lsn, fmt.Appendf(nil,
		"%d %d %d %t %t %d %d", user, device, d.seq, online, turn, u.online, u.changedAt)})
}

// forget takes away a device that is offline: a record of the log, but no event.
func (p *people) forget(user, device int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := &p.users[user]
	if device < len(u.devices) && u.devices[device].lsn > 0 && !u.devices[device].online {
		p.lsn++
		p.forgotten = p.lsn
		u.devices[device].lsn = 0
		p.queued = append(p.queued, modelEvent{lsn: p.lsn})
	}
}

type personEvent struct {
	user, device int
	seq          uint64
	online, turn bool
	count        int
	changedAt    time.Duration
}

func parsePerson(event []byte) (e personEvent) {
	_, err := fmt.Sscan(string(event),
		&e.user, &e.device, &e.seq, &e.online, &e.turn, &e.count, &e.changedAt)
	if err != nil {
		panic(err)
	}
	return e
}

func (p *people) AppendFrame(dst, event []byte) []byte {
	e := parsePerson(event)
	return fmt.Appendf(dst, "data: %d %d %d %t\n\n", e.user, e.device, e.seq, e.online)
}

func (p *people) Forgotten(Source, uuid.UUID) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forgotten
}

func (p *people) Turn(event []byte) bool { return parsePerson(event).turn }

func (p *people) AppendUserFrame(dst, event []byte, lingers bool) []byte {
	e := parsePerson(event)
	return appendPerson(dst, e.user, e.count, e.changedAt, lingers)
}

func (p *people) Lingers(event []byte, linger time.Duration) time.Duration {
	e := parsePerson(event)
	if e.count > 0 {
		return 0
	}
	return max(0, e.changedAt+linger-p.now())
}

// lingered reports whether a client that was told all until an instant may not know that a user is
// offline.
func (p *people) lingered(user int, linger, told time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[user]
	return linger > 0 && u.online == 0 && u.changedAt+linger > told-time.Second
}

func (p *people) now() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wall
}

func appendPerson(dst []byte, user, count int, changedAt time.Duration, lingers bool) []byte {
	return fmt.Appendf(dst, "data: %d %t %d %d\n\n", user, count > 0 || lingers, count, changedAt)
}

// number is the inverse of userOf.
func number(user uuid.UUID) int {
	n, _ := strconv.ParseUint(fmt.Sprintf("%x", user[8:]), 16, 64)
	return int(n) - 1
}

func (p *people) Ahead(Source, []uuid.UUID) {}

func (p *people) AppendDevices(dst []uint32, _ Source, user uuid.UUID) []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for device := range p.users[number(user)].devices {
		dst = append(dst, uint32(device))
	}
	return dst
}

func (p *people) AppendState(
	dst []byte, _ Source, user uuid.UUID, device uint32, after, through uint64,
) (text []byte, newer uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.users[number(user)].devices[device]
	if d.lsn > through {
		return dst, d.lsn
	}
	if d.lsn > after {
		dst = fmt.Appendf(dst, "data: %d %d %d %t\n\n", number(user), device, d.seq, d.online)
	}
	return dst, 0
}

func (p *people) AppendUser(
	dst []byte, _ Source, user uuid.UUID, after, through uint64, linger time.Duration,
) (text []byte, a Aggregate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[number(user)]
	a = Aggregate{LSN: u.lsn, Online: u.online}
	if u.lsn > through || u.lsn <= after && after > 0 {
		return dst, a
	}
	if u.lsn > 0 && u.online == 0 {
		a.Lingers = max(0, u.changedAt+linger-p.wall)
	}
	return appendPerson(dst, number(user), u.online, u.changedAt, a.Lingers > 0), a
}

// flush commits the first n changes that are queued, or loses them.
func (p *people) flush(b *Broadcaster, n int, lose bool) {
	p.mu.Lock()
	batch := p.queued[:n]
	p.queued = p.queued[n:]
	through := p.lsn - uint64(len(p.queued))
	p.mu.Unlock()
	for _, e := range batch {
		if p.inBatch != nil {
			p.inBatch()
		}
		if e.bytes != nil {
			b.Publish(0, e.user, e.lsn, e.bytes)
		}
	}
	if lose {
		b.Lose(0)
	}
	b.Flush(0, through, p.received)
}

// flushAt commits all changes, as a batch that was received at an instant.
func (p *people) flushAt(b *Broadcaster, received int64) {
	p.received = received
	p.flushAll(b)
	p.received = 0
}

func (p *people) flushAll(b *Broadcaster) { p.flush(b, len(p.queued), false) }

// cursorIDs are the ids of a stream in tests: an LSN and an instant, and the cursor that its client
// brought until it has more.
type cursorIDs struct {
	brought string
	p       *people
	told    time.Duration // when last no user lingered
}

func (c *cursorIDs) AppendID(dst []byte, at Position) []byte {
	if c.p != nil && !at.Overdue {
		c.told = time.Duration(at.Nanos - c.p.epoch)
	}
	if !at.Synced {
		return append(dst, c.brought...)
	}
	return fmt.Appendf(dst, "%d/%d", at.Through, c.told)
}

// watcher is a client of list streams: what it knows, over reconnects.
type watcher struct {
	t       testing.TB
	p       *people
	users   []int // that it follows
	view    View
	linger  time.Duration
	devices map[[2]int]personDevice
	people  map[int]toldPerson
	cursor  string
	follows []int // the users under that cursor
	synced  bool
	resumed bool
	// exact: nothing was conflated, so that each event has to be there.
	exact bool
	gaps  int
}

type toldPerson struct {
	online bool
	count  int
}

// read takes what a stream of the client received: known are those of its users of which it has all
// through the cursor.
func (c *watcher) read(received []byte, chunked bool) {
	c.t.Helper()
	body, ok := bytes.CutPrefix(received, []byte(testHead))
	if !ok {
		return
	}
	if chunked {
		body, _ = dechunk(c.t, body)
	}
	for {
		if rest, ok := bytes.CutPrefix(body, []byte(": keepalive\n")); ok {
			body = rest
			continue
		}
		block, rest, ok := bytes.Cut(body, []byte("\n\n"))
		if !ok {
			return
		}
		body = rest
		if !bytes.HasPrefix(block, []byte("retry: ")) {
			c.event(string(block))
		}
	}
}

func (c *watcher) event(block string) {
	c.t.Helper()
	var id, event, data string
	for _, line := range strings.Split(block, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			id = value
		case "event":
			event = value
		case "data":
			data = value
		default:
			c.t.Fatalf("line %q of %q", line, block)
		}
	}
	if c.cursor != id {
		c.cursor, c.follows = id, c.users
	}
	switch event {
	case "presence":
		c.presence(data)
	case "user":
		c.user(data)
	case "synced":
		want := fmt.Sprintf(`{"resumed":%t,"users":%d}`, c.resumed, len(c.users))
		if c.synced || data != want {
			c.t.Fatalf("synced again, or with %s, not %s", data, want)
		}
		c.synced = true
		if !c.resumed {
			c.complete()
		}
	default:
		c.t.Fatalf("event %q", block)
	}
}

// complete: a whole snapshot of the view of users has each of them.
func (c *watcher) complete() {
	for _, user := range c.users {
		if _, ok := c.people[user]; c.view == ViewUsers && !ok {
			c.t.Errorf("user %d is missing in a whole snapshot", user)
		}
	}
}

func (c *watcher) presence(data string) {
	c.t.Helper()
	var user, device int
	var d personDevice
	if _, err := fmt.Sscan(data, &user, &device, &d.seq, &d.online); err != nil ||
		c.view != ViewDevices || !slices.Contains(c.users, user) {
		c.t.Fatalf("presence %q: %v", data, err)
	}
	before := c.devices[[2]int{user, device}]
	// In the middle of the newest states the cursor is that of their beginning: after a reconnect
	// some come again.
	if again := !c.synced && !c.exact; d.seq < before.seq || d.seq == before.seq && !again {
		c.t.Fatalf("user %d, device %d: from %v to %v", user, device, before, d)
	}
	if c.synced && d.seq != before.seq+1 {
		c.gaps++
	}
	c.devices[[2]int{user, device}] = d
}

func (c *watcher) user(data string) {
	c.t.Helper()
	var user int
	var p toldPerson
	var changedAt time.Duration
	if _, err := fmt.Sscan(data, &user, &p.online, &p.count, &changedAt); err != nil ||
		c.view != ViewUsers || !slices.Contains(c.users, user) {
		c.t.Fatalf("user %q: %v", data, err)
	}
	if !p.online && changedAt > 0 && changedAt+c.linger > c.p.now() {
		c.t.Fatalf("user %d is told offline before %v are over", user, c.linger)
	}
	before, known := c.people[user]
	if p.count > 0 && !p.online {
		c.t.Fatalf("user %d is offline with %d devices", user, p.count)
	}
	if c.synced && known {
		step := p.count - before.count
		if p == before && c.exact {
			c.t.Fatalf("user %d is told %v again", user, p)
		}
		if step != 1 && step != -1 && (step != 0 || p.online == before.online) {
			c.gaps++
		}
	}
	c.people[user] = p
}

// check compares what the client knows with the table.
func (c *watcher) check(p *people) {
	c.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, user := range c.users {
		u := p.users[user]
		if c.view == ViewUsers {
			if want := (toldPerson{u.online > 0, u.online}); c.people[user] != want {
				c.t.Errorf("user %d is %v, and was told as %v", user, want, c.people[user])
			}
			continue
		}
		for device, d := range u.devices {
			got := c.devices[[2]int{user, device}]
			if d.lsn == 0 && !got.online {
				continue // unknown, or forgotten
			}
			if d.seq != got.seq || d.online != got.online {
				c.t.Errorf("user %d, device %d is at %v, and was told as %v", user, device, d, got)
			}
		}
	}
}
