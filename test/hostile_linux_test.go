package test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

// hostility is something that clients do to a server, over and over, until stop is closed.
type hostility struct {
	name  string
	crowd int // how many do it at a time
	do    func(h *hostile, stop <-chan struct{})
}

var hostilities = []hostility{
	{"never reads", 50, (*hostile).neverReads},
	{"reads a byte now and then", 50, (*hostile).sips},
	{"closes its half", 8, (*hostile).halfCloses},
	{"resets in the middle of a frame", 8, (*hostile).resets},
	{"sends garbage behind its request", 8, (*hostile).talks},
	{"opens and drops", 4, (*hostile).opensAndDrops},
	{"sends its header a byte at a time", 200, (*hostile).drips},
}

// hostile is a rig on which clients misbehave while others go on.
type hostile struct {
	*rig
	user    string // whom the misbehaving follow: a busy one
	request string // for a stream of that user
}

// TestHostileClients: whatever a client does, others get their frames, and all that it took is
// bounded (S6) and comes back: streams, descriptors, memory. ROLLCALL_HOSTILE=60s makes each go on
// for so long, and then looks for goroutines too: fasthttp's idle ones need their time to end. How
// long others waited for their frames is logged.
func TestHostileClients(t *testing.T) {
	long := os.Getenv("ROLLCALL_HOSTILE")
	each := 300 * time.Millisecond
	if long != "" {
		var err error
		if each, err = time.ParseDuration(long); err != nil {
			t.Fatal(err)
		}
	}
	h := &hostile{rig: startServer(t, "--sync=never"), user: uuid.NewString()}
	h.request = request("GET", streamPath+"?user_id="+h.user, "", bearer(tokenFor(h.user, time.Hour)))
	endNoise := h.noise()
	defer endNoise()
	calm := h.deliveries(each)
	before := h.usage()
	for _, kind := range hostilities {
		stop := make(chan struct{})
		var crowd sync.WaitGroup
		for range kind.crowd {
			crowd.Go(func() { kind.do(h, stop) })
		}
		p99 := h.deliveries(each)
		close(stop)
		crowd.Wait()
		t.Logf("p99 of others' deliveries while a crowd %s: %v, %.1f times the calm %v",
			kind.name, p99, float64(p99)/float64(calm), calm)
		h.untilUsage(before, kind.name, false)
	}
	if long != "" {
		h.untilUsage(before, "all is over", true)
	}
}

// noise makes the user busy: a device that beats 500 times a second, and a stream that keeps up.
func (h *hostile) noise() (end func()) {
	s := h.follow(h.user)
	conn := h.dial()
	conn.SetDeadline(time.Time{})
	s.conn.SetDeadline(time.Time{})
	go io.Copy(io.Discard, s.body)
	stop := make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() {
		br := bufio.NewReader(conn)
		b := newBeat().with("user_id", h.user).with("source", strings.Repeat("s", 120))
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for seq := 1; ; seq++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			io.WriteString(conn,
				request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken)))
			if a := readAnswer(h.t, br, false); a.status != 204 {
				h.t.Errorf("heartbeat: %d %s", a.status, a.body)
			}
		}
	})
	return func() {
		close(stop)
		loop.Wait()
		conn.Close()
	}
}

// deliveries sends heartbeats of eight users and waits for each one's frame, and returns the
// slowest percent's time from the one to the other.
func (h *hostile) deliveries(over time.Duration) time.Duration {
	var all []time.Duration
	var mu sync.Mutex
	var users sync.WaitGroup
	end := time.Now().Add(over)
	for range 8 {
		users.Go(func() {
			b := newBeat()
			s, conn := h.follow(b["user_id"].(string)), h.dial()
			defer s.conn.Close()
			defer conn.Close()
			br := bufio.NewReader(conn)
			for seq := 1; seq == 1 || time.Now().Before(end); seq++ {
				conn.SetDeadline(time.Now().Add(testwait.Limit))
				began := time.Now()
				io.WriteString(conn,
					request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken)))
				if got := s.event().number("seq"); got != int64(seq) {
					h.t.Errorf("frame %d, want %d", got, seq)
				}
				took := time.Since(began)
				if a := readAnswer(h.t, br, false); a.status != 204 {
					h.t.Errorf("heartbeat: %d %s", a.status, a.body)
				}
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
				// so that the eight do not load the server themselves
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	users.Wait()
	slices.Sort(all)
	return all[len(all)*99/100]
}

// usage is what a server holds.
type usage struct{ streams, connections, descriptors, goroutines, heap float64 }

func (r *rig) usage() usage {
	resp, err := http.Get("http://" + r.admin + "/debug/pprof/heap?gc=1")
	if err != nil {
		r.t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return usage{
		r.gauge(r.t, "rollcall_streams"), r.gauge(r.t, "rollcall_http_connections"), r.gauge(r.t, "process_open_fds"),
		r.gauge(r.t, "go_goroutines"), r.gauge(r.t, "go_memstats_heap_alloc_bytes"),
	}
}

// untilUsage waits until the server holds no more than before, give or take a log segment and what
// caches keep.
func (r *rig) untilUsage(before usage, after string, goroutines bool) {
	r.t.Helper()
	// polls
	for deadline := time.Now().Add(2 * testwait.Limit); ; time.Sleep(20 * time.Millisecond) {
		now := r.usage()
		back := now.streams <= before.streams && now.connections <= before.connections &&
			now.descriptors <= before.descriptors+5 && now.heap <= before.heap+8<<20 &&
			(!goroutines || now.goroutines <= before.goroutines+5)
		if back {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: the server held %+v before, and holds %+v after", after, before, now)
		}
	}
}

// open asks for a stream on a connection that holds little, and reads the head's first bytes, so
// that it is one.
func (h *hostile) open() net.Conn {
	c := dialNarrow(h.t, h.addr)
	c.SetDeadline(time.Now().Add(testwait.Limit))
	io.WriteString(c, h.request)
	if _, err := io.ReadFull(c, make([]byte, 20)); err != nil {
		h.t.Errorf("no stream: %v", err)
	}
	return c
}

// pause waits, and tells whether to go on.
func pause(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (h *hostile) neverReads(stop <-chan struct{}) {
	c := h.open()
	defer c.Close()
	<-stop
}

func (h *hostile) sips(stop <-chan struct{}) {
	c := h.open()
	defer c.Close()
	for pause(stop, 100*time.Millisecond) {
		c.Read(make([]byte, 1))
	}
}

func (h *hostile) halfCloses(stop <-chan struct{}) {
	for pause(stop, 5*time.Millisecond) {
		c := h.open()
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				h.t.Error("the server does not end a stream whose client has closed its half")
			}
		}
		c.Close()
	}
}

func (h *hostile) resets(stop <-chan struct{}) {
	for pause(stop, 5*time.Millisecond) {
		c := h.open()
		io.ReadFull(c, make([]byte, 700)) // somewhere in the first frames
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func (h *hostile) talks(stop <-chan struct{}) {
	for pause(stop, 5*time.Millisecond) {
		c := h.open()
		for range 100 { // more than the server bears
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		c.Close()
	}
}

// opensAndDrops opens a thousand streams a second, as one of four.
func (h *hostile) opensAndDrops(stop <-chan struct{}) {
	for pause(stop, 4*time.Millisecond) {
		c := h.dial()
		io.WriteString(c, h.request)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func (h *hostile) drips(stop <-chan struct{}) {
	for pause(stop, 0) {
		c := h.dial()
		for i := 0; pause(stop, 20*time.Millisecond) && i < len(h.request)-1; i++ {
			if _, err := io.WriteString(c, h.request[i:i+1]); err != nil {
				break // the server has had enough
			}
		}
		c.Close()
	}
}
