package conns

import (
	"io"
	"net"
	"testing"
	"time"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
)

// asksAsStranger sends a request without a token and reads the answer.
func (c *client) asksAsStranger() {
	c.t.Helper()
	c.write("GET " + tokenless + " HTTP/1.1\r\nHost: test\r\n\r\n")
	c.reads(200, "0")
}

// admitted waits until a new connection gets past a full server, and is answered.
func (r *rig) admitted(t *testing.T, addr net.Addr) (c *client) {
	t.Helper()
	testwait.Until(t, "a new connection is answered", func() bool {
		c = dial(t, addr)
		c.write(request(7))
		line, err := c.in.Peek(len("HTTP/1.1 200"))
		if err != nil || string(line) != "HTTP/1.1 200" {
			c.Close()
			return false
		}
		c.answered(7)
		return true
	})
	return c
}

// TestStrangerMakesRoom: at the limit a connection that has shown no token is closed, whatever it
// does, and none that has shown one (P8).
func TestStrangerMakesRoom(t *testing.T) {
	for name, begin := range map[string]func(*client){
		"silent":    func(*client) {},
		"half sent": func(c *client) { c.write("GET / HT") },
		"idle":      func(c *client) { c.asksAsStranger() },
		"idle twice": func(c *client) {
			c.asksAsStranger()
			c.asksAsStranger()
		},
		"garbage": func(c *client) { // lingers, since more could come
			c.write("\x01\r\n\r\n")
			c.reads(400, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *rig, c *Config) { c.MaxConns = 3 })
			addr := r.listen(t, "tcp")
			known := []*client{dial(t, addr), dial(t, addr)}
			for n, c := range known {
				c.ask(n + 1)
			}
			for range 3 {
				stranger := dial(t, addr)
				begin(stranger)
				if name == "idle" || name == "idle twice" {
					r.holds(t, 3)
				}
				c := r.admitted(t, addr)
				_, _ = io.Copy(io.Discard, stranger) // ended
				c.Close()
				testwait.Until(t, "it is closed", func() bool { return r.Stats().Open == 2 })
			}
			for n, c := range known {
				c.ask(n + 1)
			}
			if n := r.Stats().Evicted; n != 3 && name != "garbage" { // whose time may be over
				t.Errorf("%d evicted", n)
			}
			for _, c := range known {
				c.Close()
			}
			r.holdsNone(t)
		})
	}
}

// TestBusyStrangersMakeRoom: a stranger that asks without a token over and over, each time before
// strangerGrace is over, does not keep a full server full (P8).
func TestBusyStrangersMakeRoom(t *testing.T) {
	for name, after := range map[string]time.Duration{
		"suspended": 5 * time.Millisecond, "not suspended": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *rig, c *Config) { c.MaxConns, c.IdleAfter = 1, after })
			addr := r.listen(t, "tcp")
			stranger := dial(t, addr)
			testwait.Until(t, "a new connection is answered", func() bool {
				stranger.asksAsStranger()
				c := dial(t, addr)
				defer c.Close()
				c.write(request(7))
				line, _ := c.in.Peek(len("HTTP/1.1 200"))
				return string(line) == "HTTP/1.1 200"
			})
			stranger.ended()
		})
	}
}

// TestLongestWaitGoesFirst: of those that are suspended and of those that are not.
func TestLongestWaitGoesFirst(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) { c.MaxConns = 4 })
	addr := r.listen(t, "tcp")
	var strangers []*client
	for n := range 4 {
		c := dial(t, addr)
		if n%2 == 0 {
			c.asksAsStranger()
			r.holds(t, n/2+1)
		} else {
			testwait.Until(t, "it is accepted", func() bool { return r.Stats().Open == n+1 })
		}
		strangers = append(strangers, c)
	}
	for n := range strangers {
		r.admitted(t, addr)
		_, _ = io.Copy(io.Discard, strangers[n])
		if got := r.Stats().Evicted; got != uint64(n+1) {
			t.Errorf("%d are evicted for %d", got, n+1)
		}
	}
}

// TestKnownKeepTheirPlace: where all have shown a token the next one is refused.
func TestKnownKeepTheirPlace(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) { c.MaxConns = 2 })
	addr := r.listen(t, "tcp")
	first, second := dial(t, addr), dial(t, addr)
	for n := range 3 {
		first.ask(n + 1)
		second.ask(n + 1)
		r.holds(t, 2)
		<-time.After(strangerGrace) // no stranger is what would be evicted now
		c := dial(t, addr)
		c.write(request(1))
		c.reads(503, reply.TooManyConns.Details())
		c.Close()
	}
	if n := r.Stats().Evicted; n > 0 {
		t.Errorf("%d are evicted", n)
	}
}

// TestStrangersWaitLess: suspended or not, and a connection that has shown a token does not.
func TestStrangersWaitLess(t *testing.T) {
	for name, after := range map[string]time.Duration{
		"suspended": 5 * time.Millisecond, "not suspended": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *rig, c *Config) {
				c.IdleAfter, c.StrangerTimeout = after, 50*time.Millisecond
			})
			addr := r.listen(t, "tcp")
			known, stranger := dial(t, addr), dial(t, addr)
			known.ask(1)
			stranger.asksAsStranger()
			stranger.ended()
			testwait.Until(t, "one is left", func() bool { return r.Stats().Open == 1 })
			known.ask(2)
		})
	}
}

// TestRefusedReadsTheHead: the answer of a full server comes behind the request, and to a
// client that is silent after a while.
func TestRefusedReadsTheHead(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) {
		c.MaxConns, c.OpenStreams = 1, func() int { return 1 }
	})
	addr := r.listen(t, "tcp")
	for range 3 {
		c := dial(t, addr)
		text := request(1)
		c.write(text[:10])
		if n, err := func() (int, error) {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			return c.in.Read(make([]byte, 1))
		}(); n != 0 || err == nil {
			t.Fatalf("answered before the request: %v", err)
		}
		_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
		c.write(text[10:])
		c.reads(503, reply.TooManyConns.Details())
		c.ended()
		c.Close()
	}
	silent := dial(t, addr)
	silent.reads(503, reply.TooManyConns.Details())
	silent.ended()
	silent.Close()
	testwait.Until(t, "none is served", func() bool { return r.refuser.served.Load() == 0 })
	if n := r.Stats().Open; n != 0 {
		t.Errorf("%d are counted", n)
	}
}
