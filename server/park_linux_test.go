package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rollcall/engine"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// echoSeq makes the answer to a heartbeat tell its seq, so that one mistaken for another shows.
func echoSeq(o *Options, f *fakePresence) {
	f.heartbeat = func(hb *engine.Heartbeat) engine.Result {
		return engine.Result{Outcome: engine.Stale, LastSeq: hb.Seq}
	}
}

// parksAt is echoSeq, with connections parked so soon.
func parksAt(after time.Duration) func(*Options, *fakePresence) {
	return func(o *Options, f *fakePresence) {
		echoSeq(o, f)
		o.parkAfter = after
	}
}

// listen serves on a listener of the kernel too, which can park connections.
func (r *running) listen(t testing.TB, network string) net.Addr {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(ln) }()
	return ln.Addr()
}

// daemon is a client on a connection of its own.
type daemon struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func dial(t testing.TB, to net.Addr) *daemon {
	t.Helper()
	c, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &daemon{t, c, bufio.NewReader(c)}
}

func seqText(seq int, headers ...string) string {
	return heartbeatText(with("seq", strconv.Itoa(seq)), headers...)
}

func (d *daemon) write(text string) {
	d.t.Helper()
	if _, err := io.WriteString(d, text); err != nil {
		d.t.Fatal(err)
	}
}

// told reads the answer of echoSeq.
func (d *daemon) told(seq int) response {
	d.t.Helper()
	res := readResponse(d.t, d.in, "POST")
	if want := fmt.Sprintf(`"last_seq":%d}`, seq); res.status != 409 || !strings.HasSuffix(res.body, want) {
		d.t.Fatalf("answer %d %s, want a 409 with %s", res.status, res.body, want)
	}
	return res
}

func (d *daemon) beat(seq int) {
	d.t.Helper()
	d.write(seqText(seq))
	d.told(seq)
}

// ended reads to the end of the connection, in order or not.
func (d *daemon) ended() {
	d.t.Helper()
	rest, err := io.ReadAll(d.in)
	if len(rest) > 0 {
		d.t.Errorf("%q before the end", rest)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		d.t.Error("the connection stays open")
	}
}

func (r *running) parksAll(t testing.TB, n int) {
	t.Helper()
	testwait.Until(t, "all are parked", func() bool { return r.parkedConns() == n })
	if open := r.conns.Load(); open < int64(n) {
		t.Errorf("%d connections are counted, %d parked", open, n)
	}
}

func (r *running) holdsNone(t testing.TB) {
	t.Helper()
	testwait.Until(t, "all are closed", func() bool { return r.conns.Load() == 0 && r.parkedConns() == 0 })
	if r.perSource != nil {
		r.perSource.mu.Lock()
		defer r.perSource.mu.Unlock()
		if len(r.perSource.open) > 0 {
			t.Errorf("addresses are still counted: %v", r.perSource.open)
		}
	}
}

// TestParkedIsServedOn: heartbeats, a batch, a pipelined pair and a request in pieces, each on a connection that was parked.
func TestParkedIsServedOn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			r := start(t, parksAt(5*time.Millisecond))
			d := dial(t, r.listen(t, network))
			d.beat(1)
			r.parksAll(t, 1)
			d.beat(2)
			r.parksAll(t, 1)
			d.write(seqText(3) + seqText(4))
			d.told(3)
			d.told(4)
			r.parksAll(t, 1)
			d.write(batchText(with("seq", "5")+"\n"+with("seq", "6"), ndjson))
			if b := readResponse(t, d.in, "POST").batch(t, 200); b.Rejected != 2 || *b.Errors[1].LastSeq != 6 {
				t.Errorf("%+v", b)
			}
			r.parksAll(t, 1)
			request := seqText(7)
			d.write(request[:1])
			testwait.Until(t, "the connection is served again", func() bool { return r.parkedConns() == 0 })
			d.write(request[1:200])
			d.write(request[200:])
			d.told(7)
			r.parksAll(t, 1)
			d.write(seqText(8, testAuth, "Connection: close"))
			if !d.told(8).closes {
				t.Error("the answer does not say that the connection closes")
			}
			d.ended()
			r.holdsNone(t)
		})
	}
}

// TestParkAtAnyMoment: requests arrive just before, while and after their connections are parked, in every shape.
func TestParkAtAnyMoment(t *testing.T) {
	seed := testseed.Of(t)
	const after = 2 * time.Millisecond
	r := start(t, func(o *Options, f *fakePresence) {
		parksAt(after)(o, f)
		o.MaxConnsPerIP = 1000
	})
	addr := r.listen(t, "tcp")
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			d, seq := dial(t, addr), n*1000
			for range 150 {
				seq++
				switch request := seqText(seq); rng.IntN(6) {
				case 0:
					seq++
					d.write(request + seqText(seq))
					d.told(seq - 1)
				case 1:
					cut := 1 + rng.IntN(len(request)-1)
					d.write(request[:cut])
					time.Sleep(time.Duration(rng.Int64N(int64(2 * after))))
					d.write(request[cut:])
				case 2:
					d.Close()
					d = dial(t, addr)
					d.write(request)
				default:
					d.write(request)
				}
				d.told(seq)
				time.Sleep(time.Duration(rng.Int64N(int64(3 * after))))
			}
			d.Close()
		})
	}
	all.Wait()
	r.holdsNone(t)
	if r.lot.token < 100 {
		t.Errorf("parked %d times only", r.lot.token)
	}
	t.Logf("parked %d times", r.lot.token)
}

// TestParkedEnds: whatever the client does to a parked connection, it has gone afterwards.
func TestParkedEnds(t *testing.T) {
	for name, end := range map[string]func(*daemon){
		"close":      func(d *daemon) { d.Close() },
		"half-close": func(d *daemon) { _ = d.Conn.(*net.TCPConn).CloseWrite(); d.ended() },
		"reset": func(d *daemon) {
			_ = d.Conn.(*net.TCPConn).SetLinger(0)
			d.Close()
		},
		"request, half-close": func(d *daemon) {
			d.write(seqText(2))
			_ = d.Conn.(*net.TCPConn).CloseWrite()
			d.told(2)
			d.ended()
		},
		"request, close": func(d *daemon) {
			d.write(seqText(2))
			d.Close()
		},
		"piece, half-close": func(d *daemon) {
			d.write(seqText(2)[:100])
			_ = d.Conn.(*net.TCPConn).CloseWrite()
			readResponse(d.t, d.in, "POST").check(d.t, 400, errorBody("invalid_payload", "Malformed request"))
			d.ended()
		},
		"piece, silence": func(d *daemon) {
			d.write(seqText(2)[:100])
			readResponse(d.t, d.in, "POST").check(d.t, 408, errorBody("unavailable", "Request timeout"))
			d.ended()
		},
		"garbage": func(d *daemon) {
			d.write("\x16\x03\x01 hello\r\n\r\n")
			readResponse(d.t, d.in, "POST").check(d.t, 400, errorBody("invalid_payload", "Malformed request"))
			d.ended()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(o *Options, f *fakePresence) {
				parksAt(5*time.Millisecond)(o, f)
				o.MaxConnsPerIP, o.ReadTimeout = 10, 500*time.Millisecond
			})
			d := dial(t, r.listen(t, "tcp"))
			d.beat(1)
			r.parksAll(t, 1)
			before := r.metrics.answers[malformedRequest].Load() + r.metrics.answers[requestTimeout].Load()
			end(d)
			r.holdsNone(t)
			answered := r.metrics.answers[malformedRequest].Load() + r.metrics.answers[requestTimeout].Load() - before
			if want := strings.HasPrefix(name, "piece") || name == "garbage"; (answered == 1) != want {
				t.Errorf("%d refusals", answered)
			}
		})
	}
}

// TestParkedIdleTimeout: a parked connection is closed after IdleTimeout and never earlier.
func TestParkedIdleTimeout(t *testing.T) {
	const idle = 300 * time.Millisecond
	r := start(t, func(o *Options, f *fakePresence) {
		parksAt(5*time.Millisecond)(o, f)
		o.IdleTimeout = idle
	})
	addr := r.listen(t, "tcp")
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() {
			d := dial(t, addr)
			began := time.Now()
			d.beat(n)
			d.ended()
			if took := time.Since(began); took < idle {
				t.Errorf("closed after %v, IdleTimeout is %v", took, idle)
			}
		})
	}
	all.Wait()
	r.holdsNone(t)
	if r.lot.token == 0 {
		t.Error("nothing was parked")
	}
}

// TestSweepTakesTheLate: in any order of parking nobody is closed early, and in that of the deadlines all that are late.
func TestSweepTakesTheLate(t *testing.T) {
	r := start(t, parksAt(time.Millisecond))
	r.listen(t, "tcp")
	testwait.Until(t, "the server has begun to serve", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.lot != nil
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const hour = time.Hour // the lot's own sweeps are of now
	for n := range 10 {
		dial(t, ln.Addr())
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.conns.Add(1)
		if !r.lot.park(c, sourceOf(c.RemoteAddr()), r.lot.began.Add(hour+time.Duration(n)*time.Minute)) {
			t.Fatal("not parked")
		}
	}
	for n, late := range []int{0, 1, 2, 2, 5, 10} {
		r.lot.sweep(hour + time.Duration(late)*time.Minute - 1)
		if got, want := r.parkedConns(), 10-late; got != want || r.conns.Load() != int64(want) {
			t.Errorf("sweep %d: %d are parked, %d count, want %d", n, got, r.conns.Load(), want)
		}
	}
}

// TestLateReport: a report of a connection that is not parked any more reaches nobody (P3).
func TestLateReport(t *testing.T) {
	r := start(t, parksAt(5*time.Millisecond))
	d := dial(t, r.listen(t, "tcp"))
	d.beat(1)
	r.parksAll(t, 1)
	d.beat(2)
	r.parksAll(t, 1)
	if c := r.lot.awaken(report{token: 1, hungUp: true}); c != nil {
		t.Error("a connection awoke by the token of another")
	}
	r.parksAll(t, 1)
	d.beat(3)
}

// TestAwokenEndsQuietly: a connection that breaks when it has just awoken is not answered, and the refusal not counted.
func TestAwokenEndsQuietly(t *testing.T) {
	r := start(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := dial(t, ln.Addr())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Conn.(*net.TCPConn).SetLinger(0)
	d.Close()
	r.conns.Add(1)
	if err := r.Server.public.ServeConn(&conn{Conn: c, server: r.Server, phase: awoken}); err != nil {
		t.Error(err)
	}
	for _, refusal := range []reply{malformedRequest, requestTimeout} {
		if n := r.metrics.answers[refusal].Load(); n > 0 {
			t.Errorf("%d times %q", n, answers[refusal].details)
		}
	}
	r.holdsNone(t)
}

// TestOpeningIsNotParked: a connection that sends no whole request ends with ReadTimeout.
func TestOpeningIsNotParked(t *testing.T) {
	r := start(t, func(o *Options, f *fakePresence) {
		parksAt(time.Millisecond)(o, f)
		o.ReadTimeout = 200 * time.Millisecond
	})
	addr := r.listen(t, "tcp")
	for _, begun := range []string{"", "P", seqText(1)[:150]} {
		d := dial(t, addr)
		d.write(begun)
		readResponse(t, d.in, "POST").check(t, 408, errorBody("unavailable", "Request timeout"))
		d.ended()
	}
	r.holdsNone(t)
	if r.lot.token > 0 {
		t.Errorf("parked %d times", r.lot.token)
	}
}

// TestParkedCounts: for MaxConns and for its address, as if it were not parked.
func TestParkedCounts(t *testing.T) {
	for details, limit := range map[string]func(*Options){
		"Too many connections":                   func(o *Options) { o.MaxConns = 2 },
		"Too many connections from this address": func(o *Options) { o.MaxConnsPerIP = 2 },
	} {
		t.Run(details, func(t *testing.T) {
			r := start(t, func(o *Options, f *fakePresence) {
				parksAt(5*time.Millisecond)(o, f)
				limit(o)
			})
			addr := r.listen(t, "tcp")
			refused := func() {
				t.Helper()
				d := dial(t, addr)
				readResponse(t, d.in, "POST").check(t, 503, errorBody("unavailable", details))
				d.Close()
			}
			first, second := dial(t, addr), dial(t, addr)
			for seq := range 3 {
				first.beat(seq)
				second.beat(seq)
				r.parksAll(t, 2)
				refused()
			}
			first.Close()
			testwait.Until(t, "one connection is left", func() bool { return r.conns.Load() == 1 })
			third := dial(t, addr)
			third.beat(1)
			refused()
			second.beat(9)
			second.Close()
			third.Close()
			r.holdsNone(t)
		})
	}
}

// TestParkedBecomesAStream: the broadcaster gets the connection as if it had never been parked.
func TestParkedBecomesAStream(t *testing.T) {
	r := start(t, func(o *Options, f *fakePresence) {
		parksAt(5*time.Millisecond)(o, f)
		o.MaxConnsPerIP = 1
	})
	d := dial(t, r.listen(t, "tcp"))
	d.beat(1)
	r.parksAll(t, 1)
	d.write(streamText("?user_id="+testUser, sign(t, testKey, payload(""))))
	s := <-r.presence.subscriptions
	if line, err := d.in.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := s.Conn.Write([]byte("0123456789")); err != nil {
		t.Error(err)
	}
	_ = s.Conn.Close()
	if rest, err := io.ReadAll(d.in); err != nil || !strings.HasSuffix(string(rest), "\r\n\r\n0123456789") {
		t.Errorf("%q, %v", rest, err)
	}
	r.holdsNone(t)
}

// TestShutdownClosesParked: all of them, before it returns; a heartbeat of one that awoke before is answered.
func TestShutdownClosesParked(t *testing.T) {
	before := goleak.IgnoreCurrent()
	files := descriptors(t)
	t.Run("", func(t *testing.T) {
		arrived, proceed := make(chan struct{}), make(chan struct{})
		r := start(t, func(o *Options, f *fakePresence) {
			o.parkAfter = 5 * time.Millisecond
			f.heartbeat = func(hb *engine.Heartbeat) engine.Result {
				if hb.Seq == 1000 {
					close(arrived)
					<-proceed
				}
				return engine.Result{Outcome: engine.Stale, LastSeq: hb.Seq}
			}
		})
		addr, other := r.listen(t, "tcp"), r.listen(t, "unix")
		var daemons []*daemon
		for n := range 50 {
			to := addr
			if n%5 == 0 {
				to = other
			}
			daemons = append(daemons, dial(t, to))
			daemons[n].beat(n)
		}
		r.parksAll(t, 50)
		last := daemons[49]
		last.write(seqText(1000))
		<-arrived
		stopped := make(chan error, 1)
		go func() { stopped <- r.Shutdown(context.Background()) }()
		for _, d := range daemons[:49] {
			d.ended()
			d.Close()
		}
		select {
		case err := <-stopped:
			t.Fatalf("Shutdown returned (%v) with a heartbeat in flight", err)
		default:
		}
		close(proceed)
		if !last.told(1000).closes {
			t.Error("the answer does not say that the connection closes")
		}
		last.ended()
		last.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if n := r.parkedConns(); n > 0 {
			t.Errorf("%d are parked", n)
		}
		r.holdsNone(t)
	})
	goleak.VerifyNone(t, before,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),    // one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")) // ends when it wakes up
	testwait.Until(t, "the descriptors are given back", func() bool { return descriptors(t) <= files })
}

func descriptors(t testing.TB) int {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestShutdownWhileParking: connections park and awake all the while, and none is left.
func TestShutdownWhileParking(t *testing.T) {
	for range 10 {
		r := start(t, parksAt(time.Millisecond))
		addr := r.listen(t, "tcp")
		var all sync.WaitGroup
		begun := make(chan struct{}, 20)
		for range 20 {
			d := dial(t, addr)
			all.Go(func() {
				for seq := 0; ; seq++ { // until the server ends it
					if _, err := io.WriteString(d, seqText(seq)); err != nil {
						return
					}
					res, err := http.ReadResponse(d.in, nil)
					if err != nil {
						return
					}
					if body, err := io.ReadAll(res.Body); err != nil || !strings.HasSuffix(string(body), fmt.Sprintf(":%d}", seq)) {
						t.Errorf("answer %s to %d: %v", body, seq, err)
					}
					if seq == 3 {
						begun <- struct{}{}
					}
					time.Sleep(rand.N(3 * time.Millisecond))
				}
			})
		}
		for range 20 {
			<-begun
		}
		if err := r.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		all.Wait()
		r.holdsNone(t)
	}
}

// TestTLSIsNotParked: the session above the socket may hold bytes that the epoll does not know of.
func TestTLSIsNotParked(t *testing.T) {
	if new(lot).takes(&tls.Conn{}) {
		t.Error("a TLS connection would be parked")
	}
}

// TestNothingParksPastIdleTimeout: an idle timeout that ends first needs no lot.
func TestNothingParksPastIdleTimeout(t *testing.T) {
	r := start(t, func(o *Options, f *fakePresence) {
		echoSeq(o, f)
		o.IdleTimeout = defaultParkAfter
	})
	d := dial(t, r.listen(t, "tcp"))
	d.beat(1)
	d.ended()
	r.holdsNone(t)
	if r.lot != nil {
		t.Error("there is a lot")
	}
}

// BenchmarkAwaken is a closed loop of heartbeats that nothing is done with, on connections that are parked before each and on
// such that never are: the difference is what parking and awaking cost. cpu-ns/op is of client and server together.
func BenchmarkAwaken(b *testing.B) {
	for name, after := range map[string]time.Duration{"parked=each": 1, "parked=never": time.Hour} {
		b.Run(name, func(b *testing.B) {
			r := start(b, func(o *Options, f *fakePresence) {
				o.parkAfter = after
				f.heartbeat = func(*engine.Heartbeat) engine.Result { return engine.Result{} }
			})
			addr, request := r.listen(b, "tcp"), []byte(heartbeatText(validBody))
			b.SetParallelism(32)
			var before, now syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.RunParallel(func(pb *testing.PB) {
				d, answer := dial(b, addr), make([]byte, 1024)
				for pb.Next() {
					if _, err := d.Write(request); err != nil {
						b.Error(err)
						return
					}
					if n, err := d.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 204 ")) {
						b.Errorf("%q, %v", answer[:n], err)
						return
					}
				}
			})
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &now)
			cpu := now.Utime.Nano() + now.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}
