package conns

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"rollcall/internal/testproc"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
)

// TestIdleIsServedOn: requests of every kind, each on a connection that was suspended (P7).
func TestIdleIsServedOn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			r := start(t, nil)
			c := dial(t, r.listen(t, network))
			c.ask(1)
			r.holds(t, 1)
			c.ask(2)
			r.holds(t, 1)
			c.write(request(3) + request(4))
			c.answered(3)
			c.answered(4)
			r.holds(t, 1)
			c.write(request(5)[:1])
			testwait.Until(t, "the connection is served again",
				func() bool { return r.Stats().Idle == 0 })
			c.write(request(5)[1:200])
			c.write(request(5)[200:])
			c.answered(5)
			r.holds(t, 1)
			c.write("GET /6 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
			c.answered(6)
			c.ended()
			r.holdsNone(t)
		})
	}
}

// TestSuspendAtAnyMoment: requests arrive just before, while and after their connections are
// suspended, in every shape, and each is answered (P1, P2).
func TestSuspendAtAnyMoment(t *testing.T) {
	seed := testseed.Of(t)
	const after = 2 * time.Millisecond
	r := start(t, idleSoon(after))
	addr := r.listen(t, "tcp")
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			pause := func(most time.Duration) {
				<-time.After(time.Duration(rng.Int64N(int64(most))))
			}
			c, seq := dial(t, addr), n*1000
			for range 150 {
				seq++
				switch text := request(seq); rng.IntN(6) {
				case 0:
					seq++
					c.write(text + request(seq))
					c.answered(seq - 1)
				case 1:
					cut := 1 + rng.IntN(len(text)-1)
					c.write(text[:cut])
					pause(2 * after)
					c.write(text[cut:])
				case 2:
					c.Close()
					c = dial(t, addr)
					c.write(text)
				default:
					c.write(text)
				}
				c.answered(seq)
				// what the test is about: around the moment at which it is suspended
				pause(3 * after)
			}
			c.Close()
		})
	}
	all.Wait()
	r.holdsNone(t)
	n := r.Stats().Suspended
	if n < 100 {
		t.Errorf("suspended %d times only", n)
	}
	t.Logf("suspended %d times", n)
}

// TestIdleEnds: whatever the client does to a suspended connection, it has gone afterwards.
func TestIdleEnds(t *testing.T) {
	for name, end := range map[string]func(*client){
		"close":      func(c *client) { c.Close() },
		"half-close": func(c *client) { _ = c.Conn.(*net.TCPConn).CloseWrite(); c.ended() },
		"reset": func(c *client) {
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
		},
		"request, half-close": func(c *client) {
			c.write(request(2))
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			c.answered(2)
			c.ended()
		},
		"request, close": func(c *client) {
			c.write(request(2))
			c.Close()
		},
		"piece, half-close": func(c *client) {
			c.write(request(2)[:100])
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			c.reads(400, "")
			c.ended()
		},
		"piece, silence": func(c *client) {
			c.write(request(2)[:100])
			c.reads(408, "")
			c.ended()
		},
		"garbage": func(c *client) {
			c.write("\x16\x03\x01 hello\r\n\r\n")
			c.reads(400, "")
			c.ended()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *rig, c *Config) {
				if name == "piece, silence" { // where the others may take their time
					c.ReadTimeout = 500 * time.Millisecond
				}
			})
			c := dial(t, r.listen(t, "tcp"))
			c.ask(1)
			r.holds(t, 1)
			end(c)
			r.holdsNone(t)
			want := int64(0)
			switch name {
			case "piece, half-close", "piece, silence", "garbage":
				want = 1
			}
			if n := r.unread.Load(); n != want {
				t.Errorf("%d refusals, want %d", n, want)
			}
		})
	}
}

// TestIdleTimeout: a suspended connection is closed after IdleTimeout and never earlier.
func TestIdleTimeout(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r := start(t, func(_ *rig, c *Config) { c.IdleTimeout = timeout })
	addr := r.listen(t, "tcp")
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() {
			c := dial(t, addr)
			began := time.Now()
			c.ask(n)
			c.ended()
			if took := time.Since(began); took < timeout {
				t.Errorf("closed after %v, IdleTimeout is %v", took, timeout)
			}
		})
	}
	all.Wait()
	r.holdsNone(t)
	if r.Stats().Suspended == 0 {
		t.Error("none was suspended")
	}
}

// TestSweepClosesTheLate: in any order of suspending none is closed early, and in that of the
// deadlines all that are late (P5).
func TestSweepClosesTheLate(t *testing.T) {
	r := start(t, nil)
	r.listen(t, "tcp")
	testwait.Until(t, "the first listener serves", func() bool { return len(r.Addrs()) > 0 })
	l := r.loops.all[0]
	const hour = time.Hour // the sweeps of the rig itself are of now
	for n := range 10 {
		_, c := accepted(t)
		known := peer{known: n%2 == 0} // strangers have a ring of their own
		if !r.counts.admit(r.loops) ||
			!r.loops.enter(c, known, r.loops.began.Add(hour+time.Duration(n)*time.Minute), 0) {
			t.Fatal("it does not enter")
		}
	}
	for n, late := range []int{0, 1, 2, 2, 5, 10} {
		l.mu.Lock()
		l.now = hour + time.Duration(late)*time.Minute - 1
		l.sweep()
		l.mu.Unlock()
		if s, want := r.Stats(), 10-late; s.Idle != want || s.Open != want {
			t.Errorf("sweep %d: %+v, want %d", n, s, want)
		}
	}
	r.holdsNone(t)
}

// TestLateReport: a report of a connection that is not suspended any more resumes none (P3).
func TestLateReport(t *testing.T) {
	r := start(t, nil)
	c := dial(t, r.listen(t, "tcp"))
	c.ask(1)
	r.holds(t, 1)
	l := r.loops.all[0]
	l.mu.Lock()
	index := l.slots.oldest(known)
	token := l.slots.token(index)
	l.mu.Unlock()
	c.ask(2)
	r.holds(t, 1)
	l.mu.Lock()
	if again := l.slots.oldest(known); again != index {
		t.Errorf("the connection has slot %d, and had %d: choose another test", again, index)
	}
	l.serve([]unix.EpollEvent{{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLHUP,
		Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}})
	late := l.slots.find(token)
	l.mu.Unlock()
	if late != 0 {
		t.Error("the token of a connection that is gone finds another")
	}
	r.holds(t, 1)
	c.ask(3)
}

// TestResumedEndsQuietly: a connection that breaks when it has just been resumed is not answered,
// and the refusal not counted (P7).
func TestResumedEndsQuietly(t *testing.T) {
	r := start(t, nil)
	c, there := accepted(t)
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	r.counts.admit(r.loops)
	err := r.server.ServeConn(&conn{Conn: there, raw: there, counts: r.counts, phase: resumed})
	if err != nil || r.unread.Load() > 0 {
		t.Errorf("%v, %d refusals", err, r.unread.Load())
	}
	r.holdsNone(t)
}

// TestOpeningIsNotSuspended: a connection that sends no whole request ends with ReadTimeout.
func TestOpeningIsNotSuspended(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) {
		c.IdleAfter = time.Millisecond
		c.ReadTimeout = 200 * time.Millisecond
	})
	addr := r.listen(t, "tcp")
	for _, begun := range []string{"", "P", request(1)[:100]} {
		c := dial(t, addr)
		c.write(begun)
		c.reads(408, "")
		c.ended()
	}
	r.holdsNone(t)
	if n := r.Stats().Suspended; n > 0 {
		t.Errorf("suspended %d times", n)
	}
}

// TestIdleCounts: for MaxConns and for its address, as if it were not suspended (P4).
func TestIdleCounts(t *testing.T) {
	for refusal, limit := range map[reply.Reply]func(*Config){
		reply.TooManyConns:          func(c *Config) { c.MaxConns = 2 },
		reply.TooManyConnsOfAddress: func(c *Config) { c.MaxPerIP = 2 },
	} {
		t.Run(refusal.Details(), func(t *testing.T) {
			r := start(t, func(_ *rig, c *Config) { limit(c) })
			addr := r.listen(t, "tcp")
			refused := func() {
				t.Helper()
				c := dial(t, addr)
				c.write(request(1))
				c.reads(503, refusal.Details())
				c.Close()
			}
			first, second := dial(t, addr), dial(t, addr)
			for n := range 3 {
				first.ask(n + 1)
				second.ask(n + 1)
				r.holds(t, 2)
				refused()
			}
			first.Close()
			testwait.Until(t, "one connection is left", func() bool { return r.Stats().Open == 1 })
			third := dial(t, addr)
			third.ask(1)
			refused()
			second.ask(9)
			second.Close()
			third.Close()
			r.holdsNone(t)
		})
	}
}

// TestIdleBecomesAStream: it is released as if it had never been suspended, and keeps its place in
// the count of its address.
func TestIdleBecomesAStream(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) { c.MaxPerIP = 1 })
	addr := r.listen(t, "tcp")
	c := dial(t, addr)
	c.ask(1)
	r.holds(t, 1)
	c.write("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
	raw, place, _ := Release(testwait.For(t, "the stream", r.streamed), netip.Addr{})
	if _, tcp := raw.(*net.TCPConn); !tcp || !place.Counted() {
		t.Fatalf("released %T, counted: %v", raw, place.Counted())
	}
	if n := r.Stats().Open; n != 0 {
		t.Errorf("%d connections are counted beside the stream", n)
	}
	other := dial(t, addr)
	other.write(request(1))
	other.reads(503, reply.TooManyConnsOfAddress.Details())
	if _, err := raw.Write([]byte("0123456789")); err != nil {
		t.Error(err)
	}
	_ = raw.Close()
	if rest, err := io.ReadAll(c.in); err != nil || string(rest) != "0123456789" {
		t.Errorf("%q, %v", rest, err)
	}
	place.Leave()
	dial(t, addr).ask(2)
}

// TestCloseClosesIdle: all of them, before it returns, and nothing of them is left.
func TestCloseClosesIdle(t *testing.T) {
	before := goleak.IgnoreCurrent()
	files := testproc.Descriptors(t)
	t.Run("", func(t *testing.T) {
		r := start(t, nil)
		addr, other := r.listen(t, "tcp"), r.listen(t, "unix")
		var clients []*client
		for n := range 50 {
			to := addr
			if n%5 == 0 {
				to = other
			}
			clients = append(clients, dial(t, to))
			clients[n].ask(n)
		}
		r.holds(t, 50)
		r.close(t)
		if s := r.Stats(); s.Idle != 0 || s.Open != 0 {
			t.Errorf("behind Close: %+v", s)
		}
		for _, c := range clients {
			c.ended()
			c.Close()
		}
		r.holdsNone(t)
		if err := r.Serve(r.server, nilListener{}); err != net.ErrClosed {
			t.Errorf("Serve behind Close: %v", err)
		}
	})
	goleak.VerifyNone(t, before,
		// one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// ends when it wakes up
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
	testwait.Until(t, "the descriptors are given back",
		func() bool { return testproc.Descriptors(t) <= files })
}

type nilListener struct{ net.Listener }

func (nilListener) Close() error { return nil }

// TestCloseWhileSuspending: connections are suspended and resumed all the while, and none is left
// (P1).
func TestCloseWhileSuspending(t *testing.T) {
	for range 10 {
		r := start(t, idleSoon(time.Millisecond))
		addr := r.listen(t, "tcp")
		var all sync.WaitGroup
		begun := make(chan struct{}, 20)
		for range 20 {
			c := dial(t, addr)
			all.Go(func() {
				for n := 0; ; n++ { // until the server ends it
					if _, err := io.WriteString(c, request(n)); err != nil {
						return
					}
					res, err := http.ReadResponse(c.in, nil)
					if err != nil {
						return
					}
					if body, err := io.ReadAll(res.Body); err != nil ||
						string(body) != fmt.Sprint(n) {
						t.Errorf("answer %q to %d: %v", body, n, err)
					}
					if n == 3 {
						begun <- struct{}{}
					}
					// around the moment at which it is suspended
					<-time.After(rand.N(3 * time.Millisecond))
				}
			})
		}
		for range 20 {
			<-begun
		}
		r.stop(t)
		all.Wait()
		r.holdsNone(t)
	}
}

// TestTLSIsNotSuspended: the session above the socket may hold bytes that the epoll does not know
// of (P2).
func TestTLSIsNotSuspended(t *testing.T) {
	if new(loops).takes(&tls.Conn{}) {
		t.Error("a TLS connection would be suspended")
	}
}

// TestNoneIsSuspendedPastIdleTimeout: an idle timeout that ends first needs no watching.
func TestNoneIsSuspendedPastIdleTimeout(t *testing.T) {
	r := start(t, func(_ *rig, c *Config) {
		c.IdleTimeout, c.IdleAfter = DefaultIdleAfter, DefaultIdleAfter
	})
	c := dial(t, r.listen(t, "tcp"))
	c.ask(1)
	c.ended()
	r.holdsNone(t)
	if r.loops != nil {
		t.Error("idle connections are watched")
	}
}
