package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/engine/broadcast"
)

func init() { roles["crowd"] = playCrowd }

// counterpart is this program in a role, spoken to in lines.
type counterpart struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startRole(b *testing.B, role string, args ...string) *counterpart {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // the end of its input ends it
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("role %s: %v", role, err)
		}
	})
	return &counterpart{in, bufio.NewReader(out)}
}

// ask sends a line and returns the answer's.
func (c *counterpart) ask(b *testing.B, line string) string {
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		b.Fatal(err)
	}
	return c.hear(b)
}

func (c *counterpart) hear(b *testing.B) string {
	line, err := c.out.ReadString('\n')
	if err != nil {
		b.Fatal("the counterpart has ended: ", err)
	}
	return strings.TrimSpace(line)
}

// farCrowd is many clients in a process of their own, which read and discard.
type farCrowd struct {
	*counterpart
	conns []net.Conn // our ends
	sum   int        // frames that were announced
}

func newFarCrowd(b *testing.B, n int) *farCrowd {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c := &farCrowd{counterpart: startRole(b, "crowd", l.Addr().String(), strconv.Itoa(n))}
	for range n {
		conn, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		c.conns = append(c.conns, conn)
	}
	return c
}

// duplicates are our ends once more, for a plain loop.
func (c *farCrowd) duplicates(b *testing.B) (fds []int) {
	for _, conn := range c.conns {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			b.Fatal(err)
		}
		fd := -1
		if e := raw.Control(func(p uintptr) { fd, err = unix.Dup(int(p)) }); e != nil ||
			err != nil {
			b.Fatal("dup: ", e, err)
		}
		fds = append(fds, fd)
	}
	b.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	return fds
}

// follow gives every client a stream. With another, that is one more user's stream.
func (c *farCrowd) follow(b *testing.B, users, workers int,
	another *noting) *broadcast.Broadcaster {
	s, err := broadcast.New(broadcast.Options{Codec: sameFrame{frameText()}, Workers: workers})
	if err != nil {
		b.Fatal(err)
	}
	s.Start(0)
	subscribe := func(user int, conn broadcast.Conn) {
		if err := s.Subscribe(broadcast.Subscription{User: id(uint64(user)), Conn: conn,
			Chunked: true}); err != nil {
			b.Fatal(err)
		}
	}
	want := uint64(len(c.conns))
	for i, conn := range c.conns {
		taken, err := s.Take(conn)
		if err != nil {
			b.Fatal(err)
		}
		subscribe(i%users, taken)
	}
	if another != nil {
		want++
		subscribe(users, *another)
	}
	for s.Stats().Opened < want {
		runtime.Gosched()
	}
	return s
}

// round does something that makes the clients read some frames, and returns how long it took until
// they had.
func (c *farCrowd) round(b *testing.B, frames int, do func()) time.Duration {
	c.sum += frames
	if _, err := fmt.Fprintf(c.in, "%d\n", c.sum); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	do()
	c.hear(b)
	return time.Since(began)
}

// playCrowd connects to the address that is its first argument as often as the second says. For
// each number on its input it reads until it has read so many frames since it began, and says so.
// In between it sleeps: the kernel keeps what arrives, and the server has the
// processors.
func playCrowd() error {
	addr, err := net.ResolveTCPAddr("tcp", os.Args[1])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	for i := range n {
		if err := connect(epoll, addr.Port, i); err != nil {
			return err
		}
	}
	r := &reader{epoll: epoll, events: make([]unix.EpollEvent, 512), buf: make([]byte, 64<<10)}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		want, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		for r.frames < want {
			if err := r.read(); err != nil {
				return err
			}
		}
		fmt.Println("read")
	}
	return nil
}

// connect adds a client, from one of many addresses, since each has few ports.
func connect(epoll, port, i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1,
		byte(i%200 + 1)}}); err != nil {
		return err
	}
	if err := unix.Connect(fd,
		&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// reader discards, and counts frames.
type reader struct {
	epoll  int
	events []unix.EpollEvent
	buf    []byte
	frames int
}

// read waits for input and reads some of each socket that has any.
func (r *reader) read() error {
	n, err := unix.EpollWait(r.epoll, r.events, -1)
	if err != nil && err != unix.EINTR {
		return err
	}
	for i := range max(n, 0) {
		fd := int(r.events[i].Fd)
		switch n, err := unix.Read(fd, r.buf); {
		case n > 0:
			r.frames += bytes.Count(r.buf[:n], frameMark)
		case err != unix.EAGAIN && err != unix.EINTR: // the server has closed it
			_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, fd, nil)
		}
	}
	return nil
}
