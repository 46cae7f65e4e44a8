package conns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/testwait"
)

// plainFrom is the first number of which a request is plain.
const plainFrom = 1000

// plainLog is the log of the plain requests of a rig: it commits when it is let to.
type plainLog struct {
	far bool // answers come later

	mu        sync.Mutex
	cond      sync.Cond
	held      bool   // guarded by mu: commits hang
	stalled   error  // guarded by mu
	appended  uint64 // guarded by mu
	committed uint64 // guarded by mu
	applied   []int  // guarded by mu
	refuse    int    // guarded by mu: the request that is not applied at once; 0: all are
	told      []Told // guarded by mu: answers that come later
	closed    bool   // guarded by mu: none does any more
}

func newPlainLog() *plainLog {
	l := new(plainLog)
	l.cond.L = &l.mu
	return l
}

func (l *plainLog) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	l.cond.Broadcast()
}

// applies waits until so many requests are applied.
func (l *plainLog) applies(t *testing.T, n uint64) {
	t.Helper()
	testwait.Until(t, "they are applied", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.appended == n
	})
}

// plainRequests serves the requests of a rig from plainFrom on.
type plainRequests struct {
	*plainLog
	taken  []int
	closes *atomic.Bool
}

func (p *plainRequests) Read(_ netip.Addr, text []byte) int {
	if n := min(len(text), 6); string(text[:n]) != "POST /"[:n] {
		return 0
	}
	path, rest, ok := bytes.Cut(text[min(6, len(text)):], []byte(" "))
	n, err := strconv.Atoi(string(path))
	switch size := len(request(plainFrom)); {
	case !ok:
		return -1
	case err != nil || n < plainFrom || n >= 10*plainFrom:
		return 0
	case len(text) < size:
		return -1
	case !strings.HasPrefix(string(rest), "HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n\r\n"):
		return 0
	default:
		p.taken = append(p.taken, n)
		return size
	}
}

func (p *plainRequests) GroupSize() int { return 4 }

func (p *plainRequests) Apply(answers []Answer) (n int, lsn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.taken = p.taken[:0] }()
	for i, number := range p.taken {
		if number == p.refuse {
			return i, p.appended
		}
		p.applied = append(p.applied, number)
		p.appended++
		answers[i] = Answer{LastSeq: uint64(number)}
	}
	return len(p.taken), p.appended
}

func (p *plainRequests) Append(text []byte, answers []Answer, err error) ([]byte, bool) {
	for _, a := range answers {
		status, body := 200, strconv.FormatUint(a.LastSeq, 10)
		if err != nil {
			status, body = 503, err.Error()
		}
		text = fmt.Appendf(text, "HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s",
			status, len(body), body)
	}
	return text, p.closes != nil && p.closes.Load()
}

func (p *plainRequests) Commit(lsn uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held && p.committed < lsn {
		p.cond.Wait()
	}
	p.committed = max(p.committed, lsn)
	return nil
}

func (p *plainRequests) Later() Later {
	if !p.far {
		return nil
	}
	return laterRequests{p}
}

// laterRequests are plainRequests whose answers come later, in another order.
type laterRequests struct{ *plainRequests }

func (p laterRequests) Submit(tokens []uint64) {
	p.set(func() {
		for i, number := range p.taken {
			p.applied = append(p.applied, number)
			p.appended++
			answer := Answer{LastSeq: uint64(number)}
			p.told = append([]Told{{Token: tokens[i], Answer: answer}}, p.told...)
		}
		p.taken = p.taken[:0]
	})
}

func (p laterRequests) Collect(spare []Told) []Told {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && (p.held || len(p.told) == 0) {
		p.cond.Wait()
	}
	told := append(spare, p.told...)
	p.told = nil
	return told
}

func (p laterRequests) Close() { p.set(func() { p.closed, p.told = true, nil }) }

func (p *plainRequests) Committed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed
}

func (p *plainRequests) Stalled() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled
}

// looped is a Config with loops on a log.
func looped(log *plainLog, change func(*Config)) func(*rig, *Config) {
	return func(r *rig, c *Config) {
		r.plainFrom = plainFrom
		c.Loops, c.IdleAfter = 1, time.Minute
		c.NewRequests = func() Requests { return &plainRequests{plainLog: log} }
		if change != nil {
			change(c)
		}
	}
}

// inLoop returns a client whose connection is in a loop.
func (r *rig) inLoop(t *testing.T, addr net.Addr) *client {
	t.Helper()
	c := dial(t, addr)
	before := r.Stats().Idle
	c.ask(plainFrom)
	testwait.Until(t, "the connection enters", func() bool { return r.Stats().Idle > before })
	return c
}

// TestLoopServes: plain requests of every shape in the loop, all others by fasthttp, in their order
// (P9, P10).
func TestLoopServes(t *testing.T) {
	for _, far := range []bool{false, true} {
		t.Run(fmt.Sprintf("far %v", far), func(t *testing.T) {
			log := newPlainLog()
			log.far = far
			r := start(t, looped(log, nil))
			c := r.inLoop(t, r.listen(t, "tcp"))
			for n := range 100 {
				c.ask(plainFrom + n)
			}
			if s := r.Stats(); s.Plain != 100 || s.Returned != 0 {
				t.Fatalf("%+v, want 100 requests in the loop", s)
			}
			text := ""
			for n := range 50 {
				text += request(plainFrom + n)
			}
			for _, other := range []string{request(7), "GET /8 HTTP/1.1\r\nHost: test\r\n\r\n"} {
				for _, cut := range []int{0, 3, 70, len(text) - 10, len(text), len(text) + 5} {
					all := text + other + text
					c.write(all[:cut])
					c.write(all[cut:])
					for n := range 50 {
						c.answered(plainFrom + n)
					}
					c.answered(7 + strings.Count(other, "GET"))
					for n := range 50 {
						c.answered(plainFrom + n)
					}
				}
			}
			if s := r.Stats(); s.Returned == 0 {
				t.Errorf("%+v: none went back", s)
			}
			c.Close()
			r.holdsNone(t)
		})
	}
}

// TestLaterAnswers: where answers come later, requests of many connections are on their way
// together, one of each; what a client sends behind it is served after its answer (P10).
func TestLaterAnswers(t *testing.T) {
	log := newPlainLog()
	log.far = true
	r := start(t, looped(log, nil))
	addr := r.listen(t, "tcp")
	var all []*client
	for range 20 {
		all = append(all, r.inLoop(t, addr))
	}
	log.set(func() { log.held = true })
	for n, c := range all {
		c.write(request(plainFrom + n))
	}
	log.applies(t, 20)
	for n, c := range all[:5] {
		c.write(request(plainFrom + 100 + n))
	}
	for _, c := range all[15:] {
		c.Close()
	}
	log.set(func() { log.held = false })
	for n, c := range all[:15] {
		c.answered(plainFrom + n)
	}
	for n, c := range all[:5] {
		c.answered(plainFrom + 100 + n)
		c.ask(plainFrom + 200)
	}
	for _, c := range all[:15] {
		c.Close()
	}
	r.holdsNone(t)
}

// TestLoopLeavesAlone: a request that cannot be applied at once is fasthttp's, with what comes
// behind it of its connection, and what others sent is applied
// (P9).
func TestLoopLeavesAlone(t *testing.T) {
	log := newPlainLog()
	r := start(t, looped(log, nil))
	addr := r.listen(t, "tcp")
	const refused = plainFrom + 50
	log.set(func() { log.refuse = refused })
	c, other := r.inLoop(t, addr), r.inLoop(t, addr)
	c.write(request(refused-1) + request(refused) + request(refused+1) + request(refused+2))
	other.write(request(plainFrom+1) + request(plainFrom+2))
	for n := range 4 {
		c.answered(refused - 1 + n)
	}
	other.answered(plainFrom + 1)
	other.answered(plainFrom + 2)
	log.mu.Lock()
	defer log.mu.Unlock()
	for _, n := range log.applied {
		if n == refused || n == refused+1 {
			t.Errorf("%d was applied in the loop: %v", n, log.applied)
		}
	}
}

// TestLeavesBehindARefusedOne: a connection that is about to leave keeps what it sent before, where
// the group stops at another connection's request (P9, P10).
func TestLeavesBehindARefusedOne(t *testing.T) {
	log := newPlainLog()
	r := start(t, looped(log, nil))
	addr := r.listen(t, "tcp")
	const refused = plainFrom + 50
	log.set(func() { log.refuse = refused })
	other := r.inLoop(t, addr)
	l := r.loops.all[0]
	l.mu.Lock()
	first := l.slots.oldest(known)
	l.mu.Unlock()
	c := r.inLoop(t, addr)

	l.mu.Lock() // as if one turn had read both, in this order
	second := l.slots.all[first].next
	l.take(first, []byte(request(refused)), 0)
	l.take(second, []byte(request(plainFrom+1)+request(plainFrom+2)+request(7)), 0)
	l.serve(nil)
	l.settle()
	l.mu.Unlock()
	for _, n := range []int{plainFrom + 1, plainFrom + 2, 7} {
		c.answered(n)
	}
	other.answered(refused)
	log.mu.Lock()
	defer log.mu.Unlock()
	if want := []int{plainFrom + 1, plainFrom + 2}; !slices.Equal(log.applied, want) {
		t.Errorf("%v were applied in the loop, want %v", log.applied, want)
	}
}

// TestStandIn: a commit that hangs keeps its own requests waiting and no others: a stand-in reads.
// When the log says that it is stalled, all that are owed an answer get one, and only one
// (P10, P11).
func TestStandIn(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		t.Run(fmt.Sprintf("stalls %v", stalls), func(t *testing.T) {
			log := newPlainLog()
			r := start(t, looped(log, nil))
			addr := r.listen(t, "tcp")
			c, second, other := r.inLoop(t, addr), r.inLoop(t, addr), r.inLoop(t, addr)
			log.set(func() { log.held = true })
			c.write(request(plainFrom + 1))
			testwait.Until(t, "another reads", func() bool { return r.Stats().StandIns == 1 })
			other.ask(3)                     // fasthttp's
			second.write(request(plainFrom)) // waits, too
			log.applies(t, 2)
			if stalls {
				log.set(func() { log.stalled = errors.New("stalled") })
				c.reads(503, "stalled")
				second.reads(503, "stalled")
			}
			log.set(func() { log.held, log.stalled = false, nil })
			if !stalls {
				c.answered(plainFrom + 1)
				second.answered(plainFrom)
			}
			for _, c := range []*client{c, second} { // and nothing before it
				c.ask(plainFrom + 9)
			}
			c.Close()
			second.Close()
			other.Close()
			r.holdsNone(t)
		})
	}
}

// TestUnreadAnswers: a client that does not read is not waited for, gets all when it does, and is
// closed when it does not within WriteTimeout (P12).
func TestUnreadAnswers(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads %v", reads), func(t *testing.T) {
			log := newPlainLog()
			r := start(t, looped(log, func(c *Config) {
				if !reads {
					c.WriteTimeout = 50 * time.Millisecond
				}
			}))
			addr := r.listen(t, "tcp")
			c, other := r.inLoop(t, addr), r.inLoop(t, addr)
			sent := 0
			var text strings.Builder
			for range 200 {
				text.WriteString(request(plainFrom))
			}
			whole := text.String()
			testwait.Until(t, "the client's socket takes no more answers", func() bool {
				_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				n, _ := c.Write([]byte(whole[sent%len(request(plainFrom)):]))
				sent += n
				l := r.loops.all[0]
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.slots.oldest(blocked) != 0
			})
			other.ask(plainFrom + 1)
			if !reads {
				other.Close()
				r.holdsNone(t)
				return
			}
			requests := sent / len(request(plainFrom))
			answer := fmt.Sprintf("HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\n%d", plainFrom)
			got := make([]byte, requests*len(answer))
			if _, err := io.ReadFull(c.in, got); err != nil ||
				string(got) != strings.Repeat(answer, requests) {
				t.Fatalf("%d answers: %v", requests, err)
			}
			_ = c.SetWriteDeadline(time.Now().Add(testwait.Limit))
			rest := request(plainFrom)[sent%len(request(plainFrom)):]
			c.write(rest)
			c.answered(plainFrom)
		})
	}
}

// TestUnreadWhileTheReaderWaits: a client that does not read what another goroutine than the reader
// has answered is closed as early, though the reader had nothing to wake for.
func TestUnreadWhileTheReaderWaits(t *testing.T) {
	r := start(t, looped(newPlainLog(), func(c *Config) {
		c.IdleTimeout, c.WriteTimeout = time.Hour, 50*time.Millisecond
	}))
	r.inLoop(t, r.listen(t, "tcp"))
	l := r.loops.all[0]
	testwait.Until(t, "the reader waits for the end of the connection's wait", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.wakesAt > time.Minute
	})
	l.mu.Lock()
	l.now = time.Since(l.began)
	l.send(l.slots.oldest(known), make([]byte, 64<<20)) // more than sockets hold
	l.mu.Unlock()
	r.holdsNone(t)
}

// TestPartInLoop: the rest of a request may take partTime in the loop; then fasthttp waits for it,
// until ReadTimeout from its first byte.
func TestPartInLoop(t *testing.T) {
	log := newPlainLog()
	r := start(t, looped(log, func(c *Config) { c.ReadTimeout = 2 * time.Second }))
	addr := r.listen(t, "tcp")
	c, late := r.inLoop(t, addr), r.inLoop(t, addr)
	text := request(plainFrom + 1)
	began := time.Now()
	late.write(text[:100])
	for cut := 1; cut < len(text); cut += 7 {
		c.write(text[:cut])
		c.write(text[cut:])
		c.answered(plainFrom + 1)
	}
	if s := r.Stats(); s.Returned != 0 && time.Since(began) < partTime {
		t.Errorf("%+v: a request in pieces went to fasthttp", s)
	}
	late.reads(408, "")
	if waited := time.Since(began); waited < 2*time.Second-deadlineSlack {
		t.Errorf("answered after %v", waited)
	}
	late.ended()
}

// TestStaysWithFasthttp: a connection whose requests are mostly not plain stays there longer each
// time.
func TestStaysWithFasthttp(t *testing.T) {
	r := start(t, looped(newPlainLog(), nil))
	c := r.inLoop(t, r.listen(t, "tcp"))
	for range 20 {
		c.ask(1)
		c.ask(plainFrom)
	}
	if s := r.Stats(); s.Returned > 3 {
		t.Errorf("%+v: it went back and forth", s)
	}
	for range 2 << maxReturns {
		c.ask(plainFrom)
	}
	testwait.Until(t, "it is in the loop", func() bool { return r.Stats().Idle == 1 })
}

// TestLoopCloses: at the end what has come in is answered, a part of a request is fasthttp's, and
// an answer that is owed is waited for.
func TestLoopCloses(t *testing.T) {
	log := newPlainLog()
	r := start(t, looped(log, nil))
	addr := r.listen(t, "tcp")
	owed, part, silent := r.inLoop(t, addr), r.inLoop(t, addr), r.inLoop(t, addr)
	log.set(func() { log.held = true })
	owed.write(request(plainFrom + 1))
	log.applies(t, 1)
	text := request(plainFrom + 2)
	part.write(text[:50])
	ended := make(chan struct{})
	go func() {
		r.stop(t)
		close(ended)
	}()
	silent.ended()
	part.write(text[50:])
	part.answered(plainFrom + 2)
	log.set(func() { log.held = false })
	owed.answered(plainFrom + 1)
	owed.ended()
	testwait.For(t, "the server ends", ended)
	r.holdsNone(t)
}
