package broadcast

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// sockets is a broadcaster and a listener whose connections become streams of user 0.
type sockets struct {
	m      *model
	b      *Broadcaster
	l      net.Listener
	dial   func() (net.Conn, error)
	now    int64
	client net.Conn // the last to connect
	wide   bool     // the server's buffers are as the system has them
}

// onSockets tests each kind of connection, with the poller and with goroutines.
func onSockets(t *testing.T, change func(*Options), test func(*testing.T, *sockets)) {
	for _, portable := range []bool{false, true} {
		for _, kind := range []string{"tcp", "unix", "tls"} {
			t.Run(fmt.Sprintf("%s/portable=%v", kind, portable), func(t *testing.T) {
				before := testproc.Descriptors(t)
				s := &sockets{m: newModel(), now: second}
				o := testOptions(s.m)
				o.Workers, o.portable = 2, portable
				if change != nil {
					change(&o)
				}
				s.b = mustNew(t, o)
				s.b.Start(s.now)
				s.listen(t, kind)
				test(t, s)
				s.l.Close()
				s.b.Close()
				s.client.Close()
				if after := testproc.Descriptors(t); after > before {
					t.Errorf("%d descriptors were open before, %d are after Close", before, after)
				}
			})
		}
	}
}

func (s *sockets) listen(t *testing.T, kind string) {
	t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if kind == "unix" {
		network, address = kind, filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s.l = l
	s.dial = func() (net.Conn, error) { return net.Dial(network, l.Addr().String()) }
	if kind != "tls" {
		return
	}
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	server.Client().CloseIdleConnections()
	s.l = tls.NewListener(l, &tls.Config{Certificates: server.TLS.Certificates})
	s.dial = func() (net.Conn, error) {
		return tls.Dial(network, l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	}
}

// connect makes a stream and returns the client's end of it.
func (s *sockets) connect(t *testing.T) net.Conn {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := s.l.Accept()
		if t, ok := c.(*tls.Conn); ok {
			err = t.Handshake()
		}
		if err != nil {
			c = nil
		}
		accepted <- c
	}()
	client, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	c := <-accepted
	if c == nil {
		t.Fatal("no connection was accepted")
	}
	if !s.wide {
		shrink(c)
	}
	shrink(client)
	conn, err := s.b.Take(c)
	if err != nil {
		t.Fatal(err)
	}
	mustSubscribe(t, s.b, Subscription{
		User: userOf(0), Conn: conn, Head: []byte(testHead), Chunked: true,
	})
	return client
}

// shrink makes the kernel's buffers small, so that a stream is blocked soon.
func shrink(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	b := c.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	b.SetReadBuffer(8 << 10)
	b.SetWriteBuffer(8 << 10)
}

// until waits for what other goroutines and the kernel are about to do.
func (s *sockets) until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%+v", s.b.Stats())
		}
	}()
	testwait.Until(t, what, reached)
}

func (s *sockets) tell(device int) {
	s.m.change(userOf(0), device)
	s.m.flushAll(s.b)
}

func (s *sockets) closed(r Reason) func() bool {
	return func() bool { return s.b.Stats().Closed[r] > 0 }
}

func TestSocketSaysAll(t *testing.T) {
	onSockets(t, nil, func(t *testing.T, s *sockets) {
		s.tell(0)
		client := s.connect(t)
		s.until(t, "the stream is open", func() bool { return s.b.Stats().Opened == 1 })
		for range 100 {
			s.tell(0)
			s.tell(1)
		}
		s.until(t, "all is written", func() bool { return s.b.Stats().Frames == 200 })
		done := s.b.Drain(0)
		s.b.Tick(s.now + second)
		all, err := io.ReadAll(client)
		if err != nil {
			t.Fatal(err)
		}
		r := readTold(t, all, testHead, true)
		s.m.checkLast(t, userOf(0), r)
		if !r.ended || r.retry == "" || r.gaps != 0 || r.frames != 201 {
			t.Errorf("told %+v", r)
		}
		client.Close()
		<-done
	})
}

func TestSocketClientGone(t *testing.T) {
	for name, leave := range map[string]func(net.Conn){
		"close": func(c net.Conn) { c.Close() },
		"half": func(c net.Conn) {
			c.(interface{ CloseWrite() error }).CloseWrite()
		},
		"reset": func(c net.Conn) {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			if t, ok := c.(*net.TCPConn); ok {
				t.SetLinger(0)
			}
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onSockets(t, nil, func(t *testing.T, s *sockets) {
				client := s.connect(t)
				s.until(t, "the stream is open", func() bool { return s.b.Stats().Opened == 1 })
				leave(client)
				s.until(t, "the client is gone", s.closed(ClientGone))
			})
		})
	}
}

func TestSocketSlowReader(t *testing.T) {
	onSockets(t, func(o *Options) { o.BacklogBytes = 4 << 10 }, func(t *testing.T, s *sockets) {
		client := s.connect(t)
		for s.b.Stats().Lagging == 0 {
			for range 500 {
				s.m.change(userOf(0), int(s.m.lsn[0]%40))
			}
			s.m.flushAll(s.b)
		}
		for range 100 {
			s.tell(0)
		}
		turns := s.b.Stats().Turns
		s.until(t, "the worker has seen that they do not fit", func() bool {
			s.b.Tick(s.now)
			now := s.b.Stats()
			return now.QueueBytes == 0 && now.Turns > turns+1
		})
		// The system's part is bounded by TestNeverReadingClientTakesLittleMemory.
		if n := s.b.Stats().PendingBytes; n > 16<<10+400<<10 {
			t.Errorf("%d bytes pending", n)
		}
		s.untilTruth(t, client)
		// The client may have read what the worker has not published the figures of.
		s.until(t, "it was conflated", func() bool { return s.b.Stats().Conflated > 0 })
	})
}

// untilTruth reads until the last word on every device is the table's.
func (s *sockets) untilTruth(t *testing.T, client net.Conn) {
	t.Helper()
	var all strings.Builder
	r := bufio.NewReader(client)
	want := make(map[string]bool)
	for device, d := range s.m.devices[userOf(0)] {
		want["data: "+string(eventText(device, d))] = true
	}
	client.SetReadDeadline(time.Now().Add(testwait.Limit))
	for len(want) > 0 {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%d devices' last word did not come: %v", len(want), err)
		}
		all.WriteString(line)
		delete(want, strings.TrimSuffix(line, "\n"))
	}
	readTold(t, []byte(all.String()), testHead, true)
}

func TestSocketLingers(t *testing.T) {
	onSockets(t, nil, func(t *testing.T, s *sockets) {
		client := s.connect(t)
		s.until(t, "the stream is open", func() bool { return s.b.Stats().Opened == 1 })
		done := s.b.Drain(0)
		s.b.Tick(s.now + second)
		if _, err := io.ReadAll(client); err != nil {
			t.Fatal(err)
		}
		s.b.Tick(s.now + second + second*3/4)
		s.until(t, "a tick was worked off", func() bool { return s.b.Streams(userOf(0)) == 0 })
		select {
		case <-done:
			t.Error("closed before the client had its time")
		default:
		}
		s.b.Tick(s.now + 3*second)
		<-done
	})
}

func TestSocketTooMuchInput(t *testing.T) {
	onSockets(t, nil, func(t *testing.T, s *sockets) {
		client := s.connect(t)
		go client.Write(make([]byte, inputLimit+1))
		s.until(t, "the stream is closed", s.closed(ServerLimit))
	})
}

func TestSocketCloseWhileBlocked(t *testing.T) {
	short := func(o *Options) { o.WriteTimeout = 20 * time.Millisecond }
	onSockets(t, short, func(t *testing.T, s *sockets) {
		s.connect(t)
		for s.b.Stats().BlockedNow == 0 {
			for range 500 {
				s.m.change(userOf(0), int(s.m.lsn[0]%40))
			}
			s.m.flushAll(s.b)
		}
		s.b.Close()
	})
}

func TestTakeOfAClosedConnection(t *testing.T) {
	b := mustNew(t, Options{Codec: newModel()})
	defer b.Close()
	if b.poller == nil {
		t.Skip("connections are held with goroutines here")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := b.Take(c); err == nil {
		t.Error("a closed connection was taken")
	}
}

// TestNeverReadingClientTakesLittleMemory (B6): by itself the kernel takes megabytes for a client
// that does not read. What it takes counts as pending.
func TestNeverReadingClientTakesLittleMemory(t *testing.T) {
	onSockets(t, nil, func(t *testing.T, s *sockets) {
		s.wide = true
		s.connect(t)
		for device := 0; s.b.Stats().Lagging == 0; device++ {
			for range 100 {
				s.m.change(userOf(0), device%40)
			}
			s.m.flushAll(s.b)
			s.until(t, "the frames were written or kept", func() bool {
				return s.b.Streams(userOf(0)) == 1 && s.b.Stats().QueueBytes == 0
			})
		}
		stats := s.b.Stats()
		if stats.Bytes > 400<<10 {
			t.Errorf("the kernel took %d KiB", stats.Bytes>>10)
		}
		if stats.PendingBytes < int(stats.Bytes)/4 {
			t.Errorf("of %d bytes that were written %d are pending", stats.Bytes,
				stats.PendingBytes)
		}
	})
}
