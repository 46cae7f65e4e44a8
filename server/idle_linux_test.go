package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rollcall/engine"
	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// echoSeq makes the answer to a heartbeat tell its seq, so that one mistaken for another shows.
func echoSeq(o *Options, f *fakePresence) {
	f.heartbeat = func(hb *engine.Heartbeat) engine.Result {
		return engine.Result{Outcome: engine.Stale, LastSeq: hb.Seq}
	}
}

// idleAt is echoSeq, with connections suspended so soon.
func idleAt(after time.Duration) func(*Options, *fakePresence) {
	return func(o *Options, f *fakePresence) {
		echoSeq(o, f)
		o.idleAfter = after
	}
}

// listen serves on a listener of the kernel too, whose connections can be idle.
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

// answered reads the answer of echoSeq.
func (d *daemon) answered(seq int) response {
	d.t.Helper()
	res := readResponse(d.t, d.in, "POST")
	if want := fmt.Sprintf(`"last_seq":%d}`, seq); res.status != 409 ||
		!strings.HasSuffix(res.body, want) {
		d.t.Fatalf("answer %d %s, want a 409 with %s", res.status, res.body, want)
	}
	return res
}

func (d *daemon) beat(seq int) {
	d.t.Helper()
	d.write(seqText(seq))
	d.answered(seq)
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

func (r *running) idles(t testing.TB, n int) {
	t.Helper()
	testwait.Until(t, "all are idle", func() bool { return r.conns.Stats().Idle == n })
}

func (r *running) holdsNone(t testing.TB) {
	t.Helper()
	testwait.Until(t, "all are closed", func() bool {
		s := r.conns.Stats()
		return s.Open == 0 && s.Idle == 0
	})
}

// TestIdleIsServedOn: heartbeats, a batch, a pipelined pair and a request in pieces, each on a
// connection that was suspended.
func TestIdleIsServedOn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			r := start(t, idleAt(5*time.Millisecond))
			d := dial(t, r.listen(t, network))
			d.beat(1)
			r.idles(t, 1)
			d.beat(2)
			r.idles(t, 1)
			d.write(seqText(3) + seqText(4))
			d.answered(3)
			d.answered(4)
			r.idles(t, 1)
			d.write(batchText(with("seq", "5")+"\n"+with("seq", "6"), ndjson))
			if b := readResponse(t, d.in, "POST").batch(t, 200); b.Rejected != 2 ||
				*b.Errors[1].LastSeq != 6 {
				t.Errorf("%+v", b)
			}
			r.idles(t, 1)
			request := seqText(7)
			d.write(request[:1])
			testwait.Until(t, "the connection is served again",
				func() bool { return r.conns.Stats().Idle == 0 })
			d.write(request[1:200])
			d.write(request[200:])
			d.answered(7)
			r.idles(t, 1)
			d.write(seqText(8, testAuth, "Connection: close"))
			if !d.answered(8).closes {
				t.Error("the answer does not say that the connection closes")
			}
			d.ended()
			r.holdsNone(t)
		})
	}
}

// TestIdleBecomesAStream: the broadcaster gets the connection as if it had never been suspended.
func TestIdleBecomesAStream(t *testing.T) {
	r := start(t, func(o *Options, f *fakePresence) {
		idleAt(5*time.Millisecond)(o, f)
		o.MaxConnsPerIP = 1
	})
	d := dial(t, r.listen(t, "tcp"))
	d.beat(1)
	r.idles(t, 1)
	d.write(streamText("?user_id="+testUser, sign(t, testKey, payload(""))))
	s := <-r.presence.subscriptions
	if line, err := d.in.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := s.Conn.Write([]byte("0123456789")); err != nil {
		t.Error(err)
	}
	_ = s.Conn.Close()
	if rest, err := io.ReadAll(d.in); err != nil || !strings.HasSuffix(string(rest),
		"\r\n\r\n0123456789") {
		t.Errorf("%q, %v", rest, err)
	}
	r.holdsNone(t)
}

// TestCloseClosesIdle: all of them, before it returns; a heartbeat of one that awoke before is
// answered.
func TestCloseClosesIdle(t *testing.T) {
	before := goleak.IgnoreCurrent()
	files := testproc.Descriptors(t)
	t.Run("", func(t *testing.T) {
		arrived, proceed := make(chan struct{}), make(chan struct{})
		r := start(t, func(o *Options, f *fakePresence) {
			o.idleAfter = 5 * time.Millisecond
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
		r.idles(t, 50)
		last := daemons[49]
		last.write(seqText(1000))
		<-arrived
		stopped := make(chan error, 1)
		go func() { stopped <- r.Close(context.Background()) }()
		for _, d := range daemons[:49] {
			d.ended()
			d.Close()
		}
		select {
		case err := <-stopped:
			t.Fatalf("Close returned (%v) with a heartbeat in flight", err)
		default:
		}
		close(proceed)
		if !last.answered(1000).closes {
			t.Error("the answer does not say that the connection closes")
		}
		last.ended()
		last.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if n := r.conns.Stats().Idle; n > 0 {
			t.Errorf("%d are idle", n)
		}
		r.holdsNone(t)
	})
	goleak.VerifyNone(t, before,
		// one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// ends when it wakes up
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
	testwait.Until(t, "the descriptors are given back",
		func() bool { return testproc.Descriptors(t) <= files })
}

// BenchmarkResume is a closed loop of heartbeats that nothing is done with, on connections that are
// suspended before each and on such that never are: the difference is what suspending and resuming
// cost. cpu-ns/op is of client and server together.
func BenchmarkResume(b *testing.B) {
	for name, after := range map[string]time.Duration{"idle=each": 1, "idle=never": time.Hour} {
		b.Run(name, func(b *testing.B) {
			r := start(b, func(o *Options, f *fakePresence) {
				o.idleAfter = after
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
					if n, err := d.Read(answer); err != nil ||
						!bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 204 ")) {
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
