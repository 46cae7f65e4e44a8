package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Attackers are a process of their own, this program once more, so that their work and that of the
// clients whose waits are measured do not share a Go scheduler. It is told "on" and "off" in lines.

// attackEnv makes this program the attackers; it holds their orders.
const attackEnv = "ROLLCALL_TEST_ATTACK"

// orders are what the attackers have to know.
type orders struct {
	Attack      string // its name in the table
	Addr, Admin string
	User        string // whom the attack is about, if it is about one
}

// tally is what the attackers did while they were on.
type tally struct {
	Done    int64 // requests that were answered with less than 400, streams that were opened
	Refused int64 // other answers, and connections that the server closed without one
}

// attackerAddress is where attackers come from: limits for an address tell them from others.
var attackerAddress = net.IPv4(127, 0, 0, 66)

// attackers are some at a time, who do the same until stop is closed.
type attackers struct {
	orders
	stop          chan struct{}
	done, refused atomic.Int64
}

func init() {
	instead = func() bool {
		text := os.Getenv(attackEnv)
		if text != "" {
			attackAsTold(text)
		}
		return text != ""
	}
}

// attackAsTold is the process of the attackers; it ends with its input.
func attackAsTold(text string) {
	a := &attackers{}
	if err := json.Unmarshal([]byte(text), &a.orders); err != nil {
		panic(err)
	}
	var kind attack
	for _, k := range attacks() {
		if k.name == a.Attack {
			kind = k
		}
	}
	var crowd sync.WaitGroup
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "on":
			a.stop = make(chan struct{})
			a.done.Store(0)
			a.refused.Store(0)
			for i := range kind.crowd {
				crowd.Go(func() { kind.do(a, i) })
			}
		case "off":
			close(a.stop)
			crowd.Wait()
			if err := json.NewEncoder(os.Stdout).Encode(
				tally{a.done.Load(), a.refused.Load()}); err != nil {
				panic(err)
			}
		}
	}
}

// pause waits, and tells whether to go on.
func (a *attackers) pause(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-a.stop:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-a.stop:
		return false
	case <-timer.C:
		return true
	}
}

// dial connects to an address; nil: the server does not take it.
func (a *attackers) dial(addr string) net.Conn { return a.dialWith(net.Dialer{}, addr) }

func (a *attackers) dialWith(d net.Dialer, addr string) net.Conn {
	d.Timeout, d.LocalAddr = time.Second, &net.TCPAddr{IP: attackerAddress}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		a.refused.Add(1)
		a.pause(10 * time.Millisecond)
		return nil
	}
	// no waiting for the other's end, and no port that stays taken
	c.(*net.TCPConn).SetLinger(0)
	return c
}

// held is a connection that is closed when the attack stops, so that no read outlasts it.
func (a *attackers) held(c net.Conn) (release func()) {
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-a.stop:
			c.Close()
		case <-over:
		}
	})
	return func() {
		close(over)
		watch.Wait()
		c.Close()
	}
}

// ask sends what next returns over and over, on one connection as long as the server keeps it, and
// waits for each answer; every is the least time from one to the next.
func (a *attackers) ask(addr string, every time.Duration, next func() string) {
	for a.pause(0) {
		if c := a.dial(addr); c != nil {
			release := a.held(c)
			a.askOn(c, every, next)
			release()
		}
	}
}

func (a *attackers) askOn(c net.Conn, every time.Duration, next func() string) {
	br := bufio.NewReader(c)
	for due := time.Now(); a.pause(time.Until(due)); due = due.Add(every) {
		if late := time.Since(due); late > time.Second {
			due = time.Now() // what was missed in a stall is not made up for
		}
		// the server may answer, and close, before it has read all
		_, wrote := io.WriteString(c, next())
		resp, err := http.ReadResponse(br, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		switch {
		case err == nil && resp.StatusCode < 400:
			a.done.Add(1)
		case a.pause(0):
			a.refused.Add(1)
		}
		if err != nil || wrote != nil || resp.Close {
			return
		}
	}
}

// openStream asks for a stream of the user and reads the beginning of its head; nil: there is none.
func (a *attackers) openStream(d net.Dialer) net.Conn {
	c := a.dialWith(d, a.Addr)
	if c == nil {
		return nil
	}
	release := a.held(c)
	io.WriteString(c, a.streamRequest())
	head := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(c, head); err != nil || !strings.HasSuffix(string(head), "200") {
		a.refused.Add(1)
		release()
		a.pause(10 * time.Millisecond)
		return nil
	}
	a.done.Add(1)
	return heldConn{c, release}
}

// heldConn is a connection that its Close releases.
type heldConn struct {
	net.Conn
	release func()
}

func (c heldConn) Close() error { c.release(); return nil }

func (a *attackers) streamRequest() string {
	return request("GET", streamPath+"?user_id="+a.User, "", bearer(tokenFor(a.User, time.Hour)))
}

// heartbeatLine is one line of a batch.
func heartbeatLine(user, device, status, source string, seq int64, ttl int64) string {
	return fmt.Sprintf(`{"schema_version":1,"user_id":"%s","device_id":"%s","status":"%s",`+
		`"source":"%s","sent_at_ms":1739030400000,"seq":%d,"ttl_ms":%d}`+"\n",
		user, device, status, source, seq, ttl)
}

// batch is the request of a batch; headers are "Name: value".
func batch(body string, headers ...string) string {
	return request("POST", batchPath, body, append(headers, bearer(ingestToken))...)
}
