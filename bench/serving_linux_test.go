package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server"
	"rollcall/token"
	"rollcall/wal"
	"rollcall/wire"
)

func init() {
	roles["server"] = playServer
	roles["bare"] = playBare
}

// streamUsers have a device each, so that a stream begins with a snapshot of one frame.
const streamUsers = 20_000

const signingKey = "signing"

func streamUser(n int) uuid.UUID {
	u := id(uint64(n % streamUsers))
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // version 4, variant 10
	return u
}

// playServer is the whole server without its command. It says where it listens; to each line of its
// input it answers with its resident bytes after a collection, and its goroutines.
func playServer() error {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	l, err := wal.Open(dir, wal.Options{Sync: wal.SyncNever, Logger: quiet})
	if err != nil {
		return err
	}
	clock := engine.NewClock()
	e, err := engine.New(l, engine.Options{Clock: clock, Logger: quiet,
		Broadcast: broadcast.Options{Keepalive: time.Hour, MaxStreamsPerUser: 1000}})
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		return err
	}
	for n := range streamUsers {
		hb := engine.Heartbeat{Heartbeat: wire.Heartbeat{
			User: streamUser(n), Device: streamUser(n), Status: engine.Online,
			Source: source, Seq: 1, TTLMS: uint64(forever.Milliseconds()),
		}}
		if r := e.Heartbeat(&hb); r.Outcome != engine.Accepted {
			return errRefused
		}
	}
	s, err := server.New(e, server.Options{IngestTokens: []string{"t"},
		SigningKeys: []string{signingKey}, Clock: clock,
		OpenStreams: e.OpenStreams, Logger: quiet})
	if err != nil {
		return err
	}
	raiseProcs(s)
	return serveRole(func(ln net.Listener) error { return s.Serve(ln) })
}

// raiseProcs gives the loops of a server processors of their own, as the program does.
func raiseProcs(s *server.Server) { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + s.Loops()) }

// playBare answers 204 to everything, with nothing behind it.
func playBare() error {
	return serveRole(bareServer().Serve)
}

// bareServer answers 204 to everything.
func bareServer() *fasthttp.Server {
	return &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	}}
}

// serveRole says where it listens, and answers lines until they end.
func serveRole(serve func(net.Listener) error) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() { fmt.Fprintln(os.Stderr, serve(ln)) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		resident, err := residentBytes()
		if err != nil {
			return err
		}
		fmt.Println(resident, runtime.NumGoroutine())
	}
	return nil
}

// residentBytes is what the process holds of physical memory, once the collector has given back
// what it can.
func residentBytes() (int64, error) {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// benchIdle is the slope of a whole server's resident memory between some idle streams and many,
// the kernel's share apart.
func benchIdle(b *testing.B) {
	for range b.N {
		s := startRole(b, "server")
		addr := s.hear(b)
		var conns []net.Conn
		grow := func(n int) (resident, goroutines int64) {
			for len(conns) < n {
				conns = append(conns, mustOpen(b, addr, len(conns)))
			}
			// What the connections were before they became streams has its time to go: fasthttp
			// keeps idle goroutines for ten seconds.
			time.Sleep(12 * time.Second)
			if _, err := fmt.Sscan(s.ask(b, "settle"), &resident, &goroutines); err != nil {
				b.Fatal(err)
			}
			return resident, goroutines
		}
		few, before := grow(fewIdle)
		many, after := grow(manyIdle)
		b.ReportMetric(float64(many-few)/(manyIdle-fewIdle), "B/stream")
		b.ReportMetric(float64(after-before)/(manyIdle-fewIdle), "goroutines/stream")
		for _, c := range conns {
			c.Close()
		}
		if b.N > 1 {
			b.Skip("one run is enough: use -benchtime 1x")
		}
	}
}

func mustOpen(b *testing.B, addr string, n int) net.Conn {
	c, err := openStream(addr, n)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// openStream asks for a stream and reads its snapshot; of a bare server it reads the answer's head,
// which ends alike.
func openStream(addr string, n int) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(n%200+1))}
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	c, err := net.DialTCP("tcp", from, to)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(streamRequests()[n%streamUsers]); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	for got := 0; ; {
		n, err := c.Read(buf[got:])
		if got += n; bytes.Contains(buf[:got], []byte("\n\n\r\n")) || bytes.HasPrefix(buf[:got], []byte("HTTP/1.1 204")) {
			return c, nil
		}
		if err != nil {
			return nil, fmt.Errorf("after %q: %w", buf[:got], err)
		}
	}
}

// streamRequests are made once: signing is the client's business.
var streamRequests = sync.OnceValue(func() [][]byte {
	all := make([][]byte, streamUsers)
	for n := range all {
		user := streamUser(n).String()
		text, err := token.Sign(signingKey, token.Claims{UserID: user,
			Scope: []string{wire.ScopeRead}, ExpMS: time.Now().Add(24 * time.Hour).UnixMilli()})
		if err != nil {
			panic(err)
		}
		all[n] = fmt.Appendf(nil, "GET "+wire.StreamPath+"?user_id=%s HTTP/1.1\r\nHost: bench\r\n"+
			"Authorization: Bearer %s\r\nConnection: close\r\n\r\n", user, text)
	}
	return all
})

// benchConnects compares connects of streams, token and snapshot included, with a bare server's
// requests without keep-alive. The client is the same; it resets its connections, lest it run out
// of ports.
func benchConnects(b *testing.B) {
	streamRequests()
	ours, bare := startRole(b, "server").hear(b), startRole(b, "bare").hear(b)
	const each = 4000
	var own, plain time.Duration
	b.ResetTimer()
	for range b.N {
		own += connectMany(b, ours, each)
		plain += connectMany(b, bare, each)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N*each)/own.Seconds(), "connects/s")
	b.ReportMetric(float64(b.N*each)/plain.Seconds(), "bare-connects/s")
	b.ReportMetric(plain.Seconds()/own.Seconds(), "ratio")
}

func connectMany(b *testing.B, addr string, n int) time.Duration {
	var next atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range 32 {
		group.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				c, err := openStream(addr, int(i))
				if err != nil {
					b.Error(err)
					return
				}
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
	}
	group.Wait()
	return time.Since(began)
}
