package admin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/internal/testwait"
)

// serveAdmin serves the routes of a rig on a socket, as the server does.
func serveAdmin(t *testing.T, r *rig, change func(*Config)) (address string, c *Conns) {
	t.Helper()
	s := &http.Server{}
	served := start(func(config *Config) {
		config.Refused, config.Conns = &r.refused, NewConns(time.Minute, &r.refused)
		if change != nil {
			change(config)
		}
		c = config.Conns
	})
	s.Handler = served
	c.Attach(s)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	go s.Serve(c.Listen(ln))
	return ln.Addr().String(), c
}

func dial(t *testing.T, address, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testwait.Limit))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func readStatus(t *testing.T, c net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// unended is a request whose body never comes.
const unended = "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"

// TestConnectionsOverTheLimitCloseOthers: the oldest of those whose request is not whole, of every
// kind, and the idle ones before them; a request of an operator is answered all the while.
func TestConnectionsOverTheLimitCloseOthers(t *testing.T) {
	for name, text := range map[string]string{
		"no request":   "",
		"half a head":  "GET /metrics HTTP/1.1\r\nHost: ",
		"without body": unended,
	} {
		t.Run(name, func(t *testing.T) {
			r := new(rig)
			address, conns := serveAdmin(t, r, nil)
			first := dial(t, address, text)
			for range 3 * MaxConns {
				dial(t, address, text)
			}
			asked := dial(t, address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
			if status := readStatus(t, asked); status != 200 {
				t.Errorf("the probe is answered %d", status)
			}
			if _, err := first.Read(make([]byte, 1)); err == nil {
				t.Error("the oldest one got an answer")
			}
			if n := conns.Open(); n > MaxConns {
				t.Errorf("%d connections are open", n)
			}
			if n := r.refused.counts[TooManyConns].Load(); n < 2*MaxConns {
				t.Errorf("%d closed for others are counted", n)
			}
			testwait.Until(t, "the probe's connection is idle", func() bool {
				conns.mu.Lock()
				defer conns.mu.Unlock()
				for own := range conns.open {
					if own.state == idle {
						return true
					}
				}
				return false
			})
			dial(t, address, text)
			if _, err := asked.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the idle connection did not go before the others: %v", err)
			}
		})
	}
}

// TestSlowAnswersLeaveRoomForProbes: what lasts has not all connections.
func TestSlowAnswersLeaveRoomForProbes(t *testing.T) {
	for _, path := range []string{
		"/debug/pprof/heap?seconds=600", "/debug/presence?user_id=" + testUser,
	} {
		address, _ := serveAdmin(t, new(rig), func(c *Config) { c.Presence = stuck{t.Context()} })
		refused := make(chan int, MaxConns)
		for range MaxConns {
			c := dial(t, address, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			go func() {
				if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
					resp.Body.Close()
					refused <- resp.StatusCode
				}
			}()
		}
		for range MaxConns - maxSlow {
			if status := <-refused; status != 503 {
				t.Errorf("%s is answered %d", path, status)
			}
		}
		probe := dial(t, address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
		if status := readStatus(t, probe); status != 200 {
			t.Errorf("the probe is answered %d", status)
		}
	}
}

// stuck answers nothing about presence until its test ends.
type stuck struct{ context.Context }

func (s stuck) Devices(uuid.UUID, uuid.UUID, int) ([]engine.Device, bool, error) {
	<-s.Done()
	return nil, false, s.Err()
}

func (s stuck) Streams(uuid.UUID) int { return 0 }

func (s stuck) Recent(context.Context, engine.UserQuery) ([]engine.ListedUser, error) {
	return nil, nil
}

// TestBodiesThatDoNotComeEnd with 408; those of routes that take none are not waited for.
func TestBodiesThatDoNotComeEnd(t *testing.T) {
	address, conns := serveAdmin(t, new(rig), func(c *Config) { c.BodyTimeout = time.Millisecond })
	if status := readStatus(t, dial(t, address, unended)); status != 408 {
		t.Errorf("status %d", status)
	}
	address, conns = serveAdmin(t, new(rig), nil)
	for request, want := range map[string]int{
		"GET /livez": 200, "GET /metrics": 200, "POST /livez": 405, "POST /nope": 404,
		"GET /debug/token": 405,
	} {
		for _, length := range []string{"Content-Length: 9", "Transfer-Encoding: chunked",
			"Content-Length: 9\r\nExpect: 100-continue"} {
			c := dial(t, address, request+" HTTP/1.1\r\nHost: localhost\r\n"+length+"\r\n\r\n")
			if status := readStatus(t, c); status != want {
				t.Errorf("%s, %s: status %d, want %d", request, length, status, want)
			}
		}
	}
	testwait.Until(t, "all are closed", func() bool { return conns.Open() == 0 })
	whole := strings.Replace(unended, "Content-Length: 9\r\n\r\n",
		"Content-Length: 3\r\nConnection: close\r\n\r\n0x1", 1)
	if status := readStatus(t, dial(t, address, whole)); status != 200 {
		t.Errorf("a body that comes: %d", status)
	}
	big := fmt.Sprintf("POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Length: %d\r\n\r\n", maxBody+1)
	if status := readStatus(t, dial(t, address, big+strings.Repeat("0", maxBody+1))); status != 413 {
		t.Errorf("a body over the limit: %d", status)
	}
}

// TestLongAnswersArePaced: an answer may take many write timeouts, as long as each piece is taken
// within one; an operator who takes nothing is cut off.
func TestLongAnswersArePaced(t *testing.T) {
	ours, theirs := net.Pipe()
	c := &conn{Conn: ours, writeTimeout: testwait.Limit}
	sizes := make(chan int, 8)
	go func() {
		defer close(sizes)
		p := make([]byte, 2*writePiece)
		for {
			n, err := theirs.Read(p)
			if err != nil {
				return
			}
			sizes <- n
		}
	}()
	if n, err := c.Write(make([]byte, 2*writePiece+1)); err != nil || n != 2*writePiece+1 {
		t.Errorf("%d, %v", n, err)
	}
	c.Close()
	var got []int
	for n := range sizes {
		got = append(got, n)
	}
	if fmt.Sprint(got) != fmt.Sprint([]int{writePiece, writePiece, 1}) {
		t.Errorf("pieces %v", got)
	}

	ours, _ = net.Pipe()
	c = &conn{Conn: ours, writeTimeout: time.Millisecond}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a write that nothing reads ends without an error")
	}
}
