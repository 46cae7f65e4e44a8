package broadcast

import (
	"net"
	"sync"
	"time"
)

const (
	goWriteBytes = 16 << 10    // longest write
	goLinger     = time.Second // longest time that a write may take after Close
)

// goConn is a Conn on any net.Conn, held with goroutines: one reads, and another exists while a
// write is in progress. It serves TLS, and systems without a poller.
type goConn struct {
	conn    net.Conn
	system  system // the socket under conn
	running *sync.WaitGroup
	linger  time.Duration
	id      StreamID // set before the reader starts

	mu       sync.Mutex
	notifier Notifier // nil before Attach
	writing  bool     // a writer goroutine exists: it alone takes from out
	refused  bool     // a Write did not fit: report Writable when the writer is done
	fin      bool     // CloseWrite was called
	finDone  bool
	closed   bool
	gone     bool // reading or writing failed
	input    int  // bytes read that Discard has not returned yet
	out      []byte
	inHand   int // bytes of the write in progress
}

func newGoConn(c net.Conn, running *sync.WaitGroup, timeout time.Duration) *goConn {
	under := c
	if wrapped, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		under = wrapped.NetConn()
	}
	return &goConn{
		conn: c, system: newSystem(under), running: running, linger: min(goLinger, timeout),
	}
}

func (c *goConn) Attach(n Notifier, id StreamID) error {
	c.mu.Lock()
	c.notifier, c.id = n, id
	c.mu.Unlock()
	c.running.Go(c.read)
	return nil
}

// read reports input and the client's end.
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

// Write starts a writer goroutine for the bytes, unless one is running.
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

// Held counts what waits for the writer goroutine or is in its hands, too.
func (c *goConn) Held() int {
	c.mu.Lock()
	inHand := len(c.out) + c.inHand
	c.mu.Unlock()
	return inHand + c.system.held()
}

func (c *goConn) startWriterLocked() {
	if !c.writing {
		c.writing = true
		c.running.Go(c.write)
	}
}

// goStep is what the writer goroutine does next.
type goStep uint8

const (
	stop       goStep = iota // nothing: the goroutine ends
	tellRoom                 // report Writable, and end
	writeBytes               // the three that may block
	endWrites
	closeConn // and end
)

// write is the writer goroutine: it writes the bytes, then ends our side, then closes.
func (c *goConn) write() {
	for {
		step, out := c.next()
		switch step {
		case writeBytes:
			c.do(func() error { _, err := c.conn.Write(out); return err })
			continue
		case endWrites:
			c.do(c.closeWrite)
			continue
		case closeConn:
			c.conn.Close()
		case tellRoom:
			c.report(Writable)
		}
		return
	}
}

// next takes the writer's next step, and its bytes. After stop and tellRoom there is no writer.
func (c *goConn) next() (step goStep, out []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inHand = 0
	switch {
	case len(c.out) > 0:
		out, c.out = c.out, nil
		c.inHand = len(out)
		return writeBytes, out
	case c.fin && !c.finDone:
		c.finDone = true
		return endWrites, nil
	case c.closed:
		return closeConn, nil
	}
	if c.refused && !c.gone {
		step = tellRoom
	}
	c.writing, c.refused = false, false
	return step, nil
}

// do takes a step and reports a failure as a hang-up.
func (c *goConn) do(step func() error) {
	if step() == nil {
		return
	}
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.report(HangUp)
}

// report tells the broadcaster. A connection that Subscribe refused is not attached and reports
// nothing.
func (c *goConn) report(r Readiness) {
	if c.notifier != nil {
		c.notifier.Ready(c.id, r)
	}
}

func (c *goConn) closeWrite() error {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil // Close follows when the client has closed, or after lingerTime
}

func (c *goConn) Discard([]byte) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.input
	c.input = 0
	return n, c.gone
}

// CloseWrite leaves the work to the writer: with TLS it writes, and could block.
func (c *goConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fin = true
	c.startWriterLocked()
	return nil
}

// Close leaves the work to the writer, too, and limits the time of a write in progress.
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
