package loadgen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// portableSockets is sockets with a goroutine per connection, for systems without epoll. Writes
// block: a heartbeat is far smaller than a socket's buffer.
type portableSockets struct {
	mu    sync.Mutex
	ready map[socketID]*portableSocket // guarded by mu: what wait reports next
	wake  chan struct{}                // has a token when ready is not empty
	done  chan struct{}
}

func newPortableSockets() *portableSockets {
	return &portableSockets{ready: map[socketID]*portableSocket{}, wake: make(chan struct{}, 1),
		done: make(chan struct{})}
}

func (l *portableSockets) open(id socketID, target netip.AddrPort, source netip.Addr,
	receiveBuffer int) (socket, error) {
	s := &portableSocket{loop: l, id: id, in: true, out: true, room: make(chan struct{}, 1)}
	go s.run(target, source, receiveBuffer)
	return s, nil
}

func (l *portableSockets) wait(timeout time.Duration, ready []readiness) ([]readiness, error) {
	if timeout <= 0 {
		select {
		case <-l.wake:
		default:
			return ready, nil
		}
	} else {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-l.wake:
		case <-timer.C:
			return ready, nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.ready {
		if len(ready) == turnEvents {
			break
		}
		r := s.state()
		if !r.in && !r.out {
			delete(l.ready, id)
			continue
		}
		ready = append(ready, r)
	}
	if len(l.ready) > 0 {
		l.signal()
	}
	return ready, nil
}

func (l *portableSockets) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *portableSockets) close() { close(l.done) }

// portableSocket is guarded by its loop's mu but for room.
type portableSocket struct {
	loop    *portableSockets
	id      socketID
	conn    net.Conn
	in, out bool // watched
	dialed  bool
	closed  bool
	err     error  // of the dial or, after it, of reading; io.EOF at the end
	input   []byte // read and not yet taken
	room    chan struct{}
}

// run dials and then reads whenever the last input was taken.
func (s *portableSocket) run(target netip.AddrPort, source netip.Addr, receiveBuffer int) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	conn, err := d.Dial("tcp", target.String())
	if err == nil && receiveBuffer > 0 {
		_ = conn.(*net.TCPConn).SetReadBuffer(receiveBuffer)
	}
	s.update(func() {
		s.conn, s.err, s.dialed = conn, err, true
		if s.closed && conn != nil {
			conn.Close()
		}
	})
	buf := make([]byte, 16<<10)
	for err == nil {
		var n int
		n, err = conn.Read(buf)
		s.update(func() {
			s.input = append(s.input, buf[:n]...)
			s.err = err
		})
		if n > 0 {
			select {
			case <-s.room:
			case <-s.loop.done:
				return
			}
		}
	}
}

// update changes the state and reports it.
func (s *portableSocket) update(change func()) {
	s.loop.mu.Lock()
	defer s.loop.mu.Unlock()
	change()
	if !s.closed {
		s.loop.ready[s.id] = s
		s.loop.signal()
	}
}

func (s *portableSocket) state() readiness {
	return readiness{id: s.id,
		in:  s.in && s.dialed && (len(s.input) > 0 || s.err != nil),
		out: s.out && s.dialed}
}

func (s *portableSocket) connected() error {
	s.loop.mu.Lock()
	defer s.loop.mu.Unlock()
	if s.conn == nil {
		return s.err
	}
	return nil
}

func (s *portableSocket) watch(in, out bool) error {
	s.update(func() { s.in, s.out = in, out })
	return nil
}

func (s *portableSocket) read(p []byte) (int, error) {
	s.loop.mu.Lock()
	defer s.loop.mu.Unlock()
	if len(s.input) == 0 {
		if errors.Is(s.err, io.EOF) {
			return 0, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		return 0, errAgain
	}
	n := copy(p, s.input)
	s.input = s.input[:copy(s.input, s.input[n:])]
	if len(s.input) == 0 {
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
	return n, nil
}

func (s *portableSocket) write(p []byte) (int, error) { return s.conn.Write(p) }

func (s *portableSocket) close(abort bool) {
	s.loop.mu.Lock()
	defer s.loop.mu.Unlock()
	s.closed = true
	delete(s.loop.ready, s.id)
	select {
	case s.room <- struct{}{}:
	default:
	}
	if s.conn == nil {
		return
	}
	if tcp, ok := s.conn.(*net.TCPConn); ok && abort {
		_ = tcp.SetLinger(0)
	}
	s.conn.Close()
}
