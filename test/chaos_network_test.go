package test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// routeNet carries what the nodes of a cluster tell each other: a proxy for each ordered pair of
// nodes, since each node dials each other one, and what is said goes both ways on a connection.
// It can hold what goes one way between two nodes, as a network does that loses packets: what was
// held comes when the way is healed, as TCP would send it again. And it can cut two nodes, as a
// firewall does that answers: connections end, and none is made.
//
// Any goroutine may call it.
type routeNet struct {
	mu    sync.Mutex
	held  map[way]chan struct{} // closed when it is healed
	cut   map[way]bool          // both orders
	conns map[net.Conn]way
	lns   []net.Listener
	all   sync.WaitGroup
	made  map[way]int // connections so far
}

// way is the direction from one node to another, by their numbers.
type way struct{ from, to int }

func (w way) back() way { return way{w.to, w.from} }

func newRouteNet(t *testing.T) *routeNet {
	n := &routeNet{held: map[way]chan struct{}{}, cut: map[way]bool{}, conns: map[net.Conn]way{},
		made: map[way]int{}}
	t.Cleanup(n.close)
	return n
}

// proxy listens for what one node dials to another, whose address it is given, and returns where.
func (n *routeNet) proxy(t *testing.T, w way, to string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.lns = append(n.lns, ln)
	n.mu.Unlock()
	n.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.all.Go(func() { n.carry(w, c, to) })
		}
	})
	return ln.Addr().String()
}

// carry joins a connection that a node made to the other node.
func (n *routeNet) carry(w way, c net.Conn, to string) {
	defer c.Close()
	if !n.keep(w, c) {
		return
	}
	defer n.drop(c)
	n.pass(w)
	other, err := net.DialTimeout("tcp", to, time.Second)
	if err != nil {
		n.pass(w.back())
		return
	}
	defer other.Close()
	if !n.keep(w, other) {
		return
	}
	defer n.drop(other)
	var both sync.WaitGroup
	both.Go(func() { n.pump(w, c, other) })
	both.Go(func() { n.pump(w.back(), other, c) })
	both.Wait()
}

// pump copies one direction. The end of a connection is news, too: it comes when the way is open.
func (n *routeNet) pump(w way, from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		k, err := from.Read(buf)
		n.pass(w)
		if err != nil {
			to.Close()
			return
		}
		if _, err := to.Write(buf[:k]); err != nil {
			n.pass(w.back())
			from.Close()
			return
		}
	}
}

// keep notes an open connection; false: it must not be there.
func (n *routeNet) keep(w way, c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil || n.cut[w] {
		return false
	}
	n.made[w]++
	n.conns[c] = w
	return true
}

func (n *routeNet) drop(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// pass returns when the way is open.
func (n *routeNet) pass(w way) {
	for {
		n.mu.Lock()
		healed := n.held[w]
		n.mu.Unlock()
		if healed == nil {
			return
		}
		<-healed
	}
}

// hold stops what goes this way.
func (n *routeNet) hold(ways ...way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range ways {
		if n.held[w] == nil {
			n.held[w] = make(chan struct{})
		}
	}
}

// sever ends the connections between two nodes and lets none be made.
func (n *routeNet) sever(ways ...way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range ways {
		n.cut[w], n.cut[w.back()] = true, true
		for c, of := range n.conns {
			if of == w || of == w.back() {
				c.Close()
			}
		}
	}
}

// heal opens all ways.
func (n *routeNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w, healed := range n.held {
		close(healed)
		delete(n.held, w)
	}
	clear(n.cut)
}

// used tells whether a way has ever carried a connection.
func (n *routeNet) used() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.made) > 0
}

func (n *routeNet) close() {
	n.heal()
	n.mu.Lock()
	for _, ln := range n.lns {
		ln.Close()
	}
	for c := range n.conns {
		c.Close()
	}
	n.conns = nil
	n.mu.Unlock()
	n.all.Wait()
}

// around is every way to and from a node, of so many nodes.
func around(node, nodes int) (in, out []way) {
	for other := range nodes {
		if other != node {
			in, out = append(in, way{other, node}), append(out, way{node, other})
		}
	}
	return in, out
}

// TestRouteNet: a way that is held carries nothing and then everything, the other way goes on, and
// a cut ends connections and refuses new ones until it is healed.
func TestRouteNet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n := newRouteNet(t)
	there := way{0, 1}
	addr := n.proxy(t, there, ln.Addr().String())
	dial := func() (mine, theirs net.Conn) {
		t.Helper()
		mine, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { mine.Close(); theirs.Close() })
		return mine, theirs
	}
	says := func(from, to net.Conn, text string) {
		t.Helper()
		from.Write([]byte(text))
		to.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 16)
		if k, err := to.Read(buf); err != nil || string(buf[:k]) != text {
			t.Fatalf("%q, %v: want %q", buf[:k], err, text)
		}
	}
	a, b := dial()
	says(a, b, "hello")
	says(b, a, "hi")
	n.hold(there)
	a.Write([]byte("later"))
	for range 5 { // the other way goes on
		says(b, a, "again")
	}
	b.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	buf := make([]byte, 16)
	if k, err := b.Read(buf); err == nil {
		t.Errorf("a held way carries %q", buf[:k])
	}
	n.heal()
	b.SetReadDeadline(time.Now().Add(time.Minute))
	if k, err := b.Read(buf); err != nil || string(buf[:k]) != "later" {
		t.Errorf("a healed way: %q, %v", buf[:k], err)
	}
	n.sever(there.back())
	for _, c := range []net.Conn{a, b} {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(buf); err == nil {
			t.Error("a cut way carries")
		} else if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Error("a cut connection is still open")
		}
	}
	refused, err := net.Dial("tcp", addr)
	if err == nil {
		refused.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := refused.Read(buf); err == nil {
			t.Error("a cut way lets a connection in")
		}
		refused.Close()
	}
	n.heal()
	a, b = dial()
	says(a, b, "back")
}
