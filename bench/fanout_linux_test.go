package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"rollcall/engine/broadcast"
	"rollcall/wire"
)

// streams is how many a crowd has: both ends of each are descriptors of this process.
const streams = 4000

// BenchmarkFanOut tells every stream of one event, or of eight, over loopback TCP to clients that
// read and discard on the same processors. A round ends when every client has its frames. by=write
// is the ceiling: one thread that does nothing but write(2) the finished chunk, all frames of a
// round in one, to the same kind of sockets. BenchmarkStreams has the figures with as many threads
// as workers, on the very same sockets.
func BenchmarkFanOut(b *testing.B) {
	for _, shape := range []struct{ users, batches int }{{streams, 1}, {1, 1}, {streams, 8}} {
		b.Run(fmt.Sprintf("streams=%d/users=%d/batches=%d", streams, shape.users, shape.batches), func(b *testing.B) {
			benchBroadcaster(b, shape.users, shape.batches)
			benchWrites(b, shape.batches)
		})
	}
}

func benchWrites(b *testing.B, batches int) {
	c := newCrowd(b)
	defer c.close()
	fds := make([]int, streams)
	for i := range fds {
		fds[i] = descriptorOf(b, c.join(b))
		defer unix.Close(fds[i])
	}
	chunk := appendChunk(nil, bytes.Repeat(frameText(), batches))
	b.Run("by=write", func(b *testing.B) {
		for range b.N {
			c.expect(batches * streams)
			for _, fd := range fds {
				if _, err := unix.Write(fd, chunk); err != nil {
					b.Fatal(err)
				}
			}
			c.wait()
		}
		b.ReportMetric(float64(b.N*batches*streams)/b.Elapsed().Seconds(), "frames/s")
	})
}

func benchBroadcaster(b *testing.B, users, batches int) {
	c := newCrowd(b)
	defer c.close()
	s := openStreams(b, c, users)
	defer s.Close()
	event, lsn := make([]byte, recordBytes), uint64(0)
	b.Run("by=rollcall", func(b *testing.B) {
		before := s.Stats().Writes
		b.ResetTimer()
		for range b.N {
			c.expect(batches * streams)
			for range batches {
				for u := range users {
					lsn++
					s.Publish(0, id(uint64(u)), lsn, event)
				}
				s.Flush(0, lsn, 0)
			}
			c.wait()
		}
		b.StopTimer()
		frames := float64(b.N * batches * streams)
		b.ReportMetric(frames/b.Elapsed().Seconds(), "frames/s")
		b.ReportMetric(frames/float64(max(1, s.Stats().Writes-before)), "frames/write")
	})
}

// openStreams starts a broadcaster and gives each client of a crowd a stream.
func openStreams(b *testing.B, c *crowd, users int) *broadcast.Broadcaster {
	s, err := broadcast.New(broadcast.Options{Codec: sameFrame{frameText()}})
	if err != nil {
		b.Fatal(err)
	}
	s.Start(0)
	for i := range streams {
		conn, err := s.Take(c.join(b))
		if err == nil {
			err = s.Subscribe(broadcast.Subscription{User: id(uint64(i % users)), Conn: conn,
				Chunked: true})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for s.Stats().Opened < streams {
		runtime.Gosched()
	}
	return s
}

// BenchmarkIdleStream is the memory of a stream that is told nothing: the process's own, and the
// kernel's for both ends of the connection. The time is that of opening all of them.
func BenchmarkIdleStream(b *testing.B) {
	b.Run(fmt.Sprintf("streams=%d/by=rollcall", streams), func(b *testing.B) {
		for range b.N {
			c := newCrowd(b)
			heap, kernel := heapBytes(), kernelBytes(b)
			s := openStreams(b, c, streams)
			b.ReportMetric(float64(heapBytes()-heap)/streams, "B/stream")
			b.ReportMetric(float64(kernelBytes(b)-kernel)/streams, "kernel-B/stream")
			s.Close()
			c.close()
		}
	})
}

// kernelBytes is what the kernel holds in slabs that it cannot give back: sockets among them.
func kernelBytes(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "SUnreclaim: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	b.Fatal("/proc/meminfo has no SUnreclaim")
	return 0
}

func frameText() []byte {
	ev := sampleEvent()
	return wire.AppendFrame(nil, &ev)
}

func appendChunk(dst, text []byte) []byte {
	dst = fmt.Appendf(dst, "%x\r\n", len(text))
	return append(append(dst, text...), "\r\n"...)
}

// sameFrame is a codec of one frame for everything.
type sameFrame struct{ text []byte }

func (c sameFrame) AppendFrame(dst, _ []byte) []byte { return append(dst, c.text...) }

func (c sameFrame) Ahead(broadcast.Source, []uuid.UUID) {}

func (c sameFrame) AppendDevices(dst []uint32, _ broadcast.Source, _ uuid.UUID) []uint32 {
	return dst
}

func (c sameFrame) AppendState(
	dst []byte, _ broadcast.Source, _ uuid.UUID, _ uint32, _, _ uint64,
) (text []byte, newer uint64) {
	return dst, 0
}

func (c sameFrame) Forgotten(broadcast.Source, uuid.UUID) uint64 { return 0 }

func (c sameFrame) Turn([]byte) bool { return false }

func (c sameFrame) AppendUserFrame(dst, _ []byte, _ bool) []byte { return dst }

func (c sameFrame) Lingers([]byte, time.Duration) time.Duration { return 0 }

func (c sameFrame) AppendUser(
	dst []byte, _ broadcast.Source, _ uuid.UUID, _, _ uint64, _ time.Duration,
) (text []byte, a broadcast.Aggregate) {
	return dst, a
}

// descriptorOf takes the socket out of a connection.
func descriptorOf(b *testing.B, c net.Conn) int {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(p uintptr) { fd, err = unix.Dup(int(p)) }); err != nil || fd < 0 {
		b.Fatal("dup: ", err)
	}
	c.Close()
	return fd
}

// crowd is many clients that read and discard, held by one epoll.
type crowd struct {
	l     net.Listener
	epoll int
	fds   []int
	sum   int64        // frames that expect announced so far; the benchmark's own
	read  int64        // frames; the discarding goroutine's own
	want  atomic.Int64 // of read: then reached gets a token
	done  chan struct{}

	closing atomic.Bool // tells the discarding goroutine to end, within one wait

	reached chan struct{}
}

// frameMark is in each frame once, and not in the framing around it, which depends on the batches.
var frameMark = []byte("data: ")

func newCrowd(b *testing.B) *crowd {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	c := &crowd{l: l, epoll: epoll, done: make(chan struct{}), reached: make(chan struct{}, 1)}
	go c.discard()
	return c
}

func (c *crowd) discard() {
	defer close(c.done)
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	for !c.closing.Load() {
		n, err := unix.EpollWait(c.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			fd := int(events[i].Fd)
			n, err := unix.Read(fd, buf)
			if n > 0 {
				c.read += int64(bytes.Count(buf[:n], frameMark))
			} else if err != unix.EAGAIN && err != unix.EINTR { // the server has closed it
				_ = unix.EpollCtl(c.epoll, unix.EPOLL_CTL_DEL, fd, nil)
			}
		}
		if want := c.want.Load(); want > 0 && c.read >= want {
			c.want.Store(0)
			c.reached <- struct{}{}
		}
	}
}

// join connects one client and returns the server's end.
func (c *crowd) join(b *testing.B) net.Conn {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	c.fds = append(c.fds, fd)
	port := c.l.Addr().(*net.TCPAddr).Port
	if err := unix.Connect(fd,
		&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		b.Fatal(err)
	}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		b.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		b.Fatal(err)
	}
	server, err := c.l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return server
}

func (c *crowd) close() {
	c.closing.Store(true)
	<-c.done
	for _, fd := range append(c.fds, c.epoll) {
		unix.Close(fd)
	}
	c.l.Close()
}

// expect says how many more frames the clients will have read when wait returns.
func (c *crowd) expect(frames int) {
	c.sum += int64(frames)
	c.want.Store(c.sum)
}

func (c *crowd) wait() { <-c.reached }
