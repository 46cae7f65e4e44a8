package broadcast

import (
	"net"
	"sync"
	"time"
)

const (
	goWriteBytes = 16 << 10    // longest write on its way
	goLinger     = time.Second // that a write on its way may take after Close, at most
)

// goConn is a Conn on any net.Conn, held with goroutines: one that reads, and one for as long as a
// write is on its way, of which there is at most one. For TLS, and for systems without a poller.
type goConn struct {
	conn    net.Conn
	running *sync.WaitGroup
	linger  time.Duration
	id      StreamID // set before the reader starts

	mu       sync.Mutex
	notifier Notifier // nil before Attach
	writing  bool     // a writer goroutine exists: it alone uses out
	refused  bool     // a Write did not fit: Writable is to be reported
	fin      bool     // CloseWrite was called
	finDone  bool
	closed   bool
	gone     bool // reading or writing failed
	input    int  // read and not asked for by Discard yet
	out      []byte
}

func newGoConn(c net.Conn, running *sync.WaitGroup, timeout time.Duration) *goConn {
	return &goConn{conn: c, running: running, linger: min(goLinger, timeout)}
}

func (c *goConn) Attach(n Notifier, id StreamID) error {
	c.mu.Lock()
	c.notifier, c.id = n, id
	c.mu.Unlock()
	c.running.Go(c.read)
	return nil
}

// read waits for the client to send something, or to go.
func (c *goConn) read() {
	var buf [512]byte
	for {
		n, err := c.conn.Read(buf[:])
		c.mu.Lock()
		c.input += n
		c.gone = c.gone || err != nil
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
		if err != nil {
			c.notifier.Ready(c.id, HangUp)
			return
		}
		c.notifier.Ready(c.id, Readable)
	}
}

// Write hands bytes to a writer goroutine unless one is at work.
func (c *goConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.gone {
		return 0, errClosed
	}
	if c.writing {
		c.refused = true
		return 0, nil
	}
	n := min(len(p), goWriteBytes)
	c.refused = n < len(p)
	c.out = append(c.out, p[:n]...)
	c.startWriterLocked()
	return n, nil
}

func (c *goConn) startWriterLocked() {
	if !c.writing {
		c.writing = true
		c.running.Go(c.write)
	}
}

// write does what there is to do for a writer: bytes, then the end of our side, then closing. Each
// may block.
func (c *goConn) write() {
	for {
		c.mu.Lock()
		out := c.out
		c.out = nil
		finish := c.fin && !c.finDone
		c.finDone = c.finDone || finish && len(out) == 0
		closed := c.closed
		if len(out) == 0 && !finish && !closed {
			c.writing = false
			report := c.refused && !c.gone
			c.refused = false
			c.mu.Unlock()
			if report {
				c.report(Writable)
			}
			return
		}
		c.mu.Unlock()
		switch {
		case len(out) > 0:
			c.do(func() error { _, err := c.conn.Write(out); return err })
		case finish:
			c.do(c.closeWrite)
		default:
			c.conn.Close()
			return
		}
	}
}

// do reports a failure as a hang-up.
func (c *goConn) do(deed func() error) {
	if deed() == nil {
		return
	}
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.report(HangUp)
}

// report tells the broadcaster. A connection that was turned away was never attached: nobody wants
// to know.
func (c *goConn) report(r Readiness) {
	if c.notifier != nil {
		c.notifier.Ready(c.id, r)
	}
}

func (c *goConn) closeWrite() error {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil // Close comes when the client goes, or has had its time
}

func (c *goConn) Discard([]byte) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.input
	c.input = 0
	return n, c.gone
}

// CloseWrite leaves the deed to the writer: with TLS it writes, and could block.
func (c *goConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fin = true
	c.startWriterLocked()
	return nil
}

// Close leaves the deed to the writer, too, with a limit to what it still has on its way.
func (c *goConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.writing {
		c.conn.SetWriteDeadline(time.Now().Add(c.linger))
	}
	c.startWriterLocked()
	return nil
}
