package conns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
)

// rig is a fasthttp server over this package. It answers a request for /N with N, so that one
// mistaken for another shows.
type rig struct {
	*Conns
	server   *fasthttp.Server
	unread   atomic.Int64 // requests that fasthttp could not read, and answered
	streamed chan net.Conn

	plainFrom int // the first number of which a request is plain; 0: none is
}

// idleSoon is a Config whose connections are suspended after so long.
func idleSoon(after time.Duration) func(*rig, *Config) {
	return func(_ *rig, c *Config) { c.IdleAfter = after }
}

// start makes a rig. Its connections are suspended at once, or as change says.
func start(t testing.TB, change func(*rig, *Config)) *rig {
	t.Helper()
	r := &rig{streamed: make(chan net.Conn, 1)}
	config := Config{
		ReadTimeout:  10 * time.Second,
		WriteTimeout: 10 * time.Second,
		IdleTimeout:  time.Minute,
		IdleAfter:    5 * time.Millisecond,
		Refuse: func(refusal reply.Reply) []byte {
			return fmt.Appendf(nil, "HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s",
				len(refusal.Details()), refusal.Details())
		},
		Logger:      slog.New(slog.DiscardHandler),
		MaxConns:    1000,
		OpenStreams: func() int { return 0 },
		MaxPerIP:    100,

		StrangerTimeout: time.Minute,
	}
	r.server = &fasthttp.Server{
		Handler:         r.answer,
		ErrorHandler:    r.refuse,
		Logger:          silence{},
		ReadTimeout:     10 * time.Second,
		ConnState:       Follow,
		CloseOnShutdown: true,

		KeepHijackedConns: true,
	}
	if change != nil {
		change(r, &config)
	}
	r.server.WriteTimeout, r.server.IdleTimeout = config.WriteTimeout, config.IdleTimeout
	r.server.ReadTimeout = config.ReadTimeout
	r.Conns = New(config)
	t.Cleanup(func() { r.stop(t) })
	return r
}

type silence struct{}

func (silence) Printf(string, ...any) {}

// tokenless is a path that wants no token.
const tokenless = "/0"

func (r *rig) answer(ctx *fasthttp.RequestCtx) {
	if over := Refused(ctx.Conn()); over != reply.None {
		r.answerRefused(ctx, over)
		return
	}
	if string(ctx.Path()) != tokenless {
		Prove(ctx.Conn())
	}
	if string(ctx.Path()) == "/stream" {
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(func(c net.Conn) { r.streamed <- c })
		return
	}
	if n, err := strconv.Atoi(string(ctx.Path()[1:])); err == nil && r.plainFrom > 0 &&
		n >= r.plainFrom {
		Plain(ctx.Conn())
	}
	ctx.SetBody(ctx.Path()[1:])
}

func (r *rig) refuse(ctx *fasthttp.RequestCtx, err error) {
	if over := Refused(ctx.Conn()); over != reply.None {
		r.answerRefused(ctx, over)
		return
	}
	r.unread.Add(1)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		ctx.SetStatusCode(fasthttp.StatusRequestTimeout)
	} else {
		ctx.SetStatusCode(fasthttp.StatusBadRequest)
	}
	ctx.SetConnectionClose()
	Linger(ctx.Conn())
}

func (r *rig) answerRefused(ctx *fasthttp.RequestCtx, over reply.Reply) {
	ctx.SetStatusCode(over.Status())
	ctx.SetBodyString(over.Details())
	ctx.SetConnectionClose()
	Linger(ctx.Conn())
}

func (r *rig) stop(t testing.TB) {
	t.Helper()
	r.close(t)
	ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
	defer cancel()
	if err := r.server.ShutdownWithContext(ctx); err != nil {
		t.Errorf("shut down: %v", err)
	}
}

func (r *rig) close(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// listen serves on a listener of the kernel.
func (r *rig) listen(t testing.TB, network string) net.Addr {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(r.server, ln) }()
	return ln.Addr()
}

// holds waits until so many connections are suspended.
func (r *rig) holds(t testing.TB, n int) {
	t.Helper()
	testwait.Until(t, "all are suspended", func() bool { return r.Stats().Idle == n })
	if open := r.Stats().Open; open < n {
		t.Errorf("%d connections are counted, %d are suspended", open, n)
	}
}

// holdsNone waits until every connection is closed, and no address counted (P4).
func (r *rig) holdsNone(t testing.TB) {
	t.Helper()
	testwait.Until(t, "all are closed", func() bool {
		s := r.Stats()
		return s.Open == 0 && s.Idle == 0
	})
	r.counts.sources.mu.Lock()
	defer r.counts.sources.mu.Unlock()
	if len(r.counts.sources.open) > 0 {
		t.Errorf("addresses are still counted: %v", r.counts.sources.open)
	}
}

// client is a client on a connection of its own.
type client struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func dial(t testing.TB, to net.Addr) *client {
	t.Helper()
	c, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(testwait.Limit))
	return &client{t, c, bufio.NewReader(c)}
}

// request is a request of some size for /n.
func request(n int) string {
	return fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n\r\n%200d", n, n)
}

func (c *client) write(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// reads reads an answer with this status and body.
func (c *client) reads(status int, body string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, &http.Request{Method: "POST"})
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status || string(got) != body {
		c.t.Fatalf("answer %d %q, %v; want %d %q", res.StatusCode, got, err, status, body)
	}
}

// answered reads the answer to request n.
func (c *client) answered(n int) {
	c.t.Helper()
	c.reads(200, strconv.Itoa(n))
}

func (c *client) ask(n int) {
	c.t.Helper()
	c.write(request(n))
	c.answered(n)
}

// ended reads to the end of the connection, in order or not.
func (c *client) ended() {
	c.t.Helper()
	rest, err := io.ReadAll(c.in)
	if len(rest) > 0 {
		c.t.Errorf("%q before the end", rest)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the connection stays open")
	}
}

// accepted returns both ends of a connection that no server has.
func accepted(t testing.TB) (here *client, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	here = dial(t, ln.Addr())
	if there, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return here, there
}
