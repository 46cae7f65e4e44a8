package broadcast

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// sameFrame is a codec of one frame for everything, of the usual length.
type sameFrame struct {
	noUsers
	text []byte
}

const frameFill = 251 // bytes of a frame between "data: " and its end

func newSameFrame() sameFrame {
	text := append([]byte("data: "), bytes.Repeat([]byte("x"), frameFill)...)
	return sameFrame{text: append(text, "\n\n"...)}
}

func (c sameFrame) AppendFrame(dst, event []byte) []byte { return append(dst, c.text...) }

func (c sameFrame) Ahead(Source, []uuid.UUID)                                  {}
func (c sameFrame) AppendDevices(dst []uint32, _ Source, _ uuid.UUID) []uint32 { return dst }

func (c sameFrame) AppendState(
	dst []byte, _ Source, _ uuid.UUID, _ uint32, _, _ uint64,
) (text []byte, newer uint64) {
	return dst, 0
}

// crowd is many clients that read and discard, held by one epoll.
type crowd struct {
	l     net.Listener
	epoll int
	fds   []int
	read  int64        // frames' bytes; the discarding goroutine's own
	want  atomic.Int64 // of read: then reached gets a token
	done  chan struct{}

	reached chan struct{}
}

func newCrowd(b testing.TB) *crowd {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	c := &crowd{l: l, epoll: epoll, done: make(chan struct{}), reached: make(chan struct{}, 1)}
	b.Cleanup(c.close)
	go c.discard()
	return c
}

func (c *crowd) discard() {
	defer close(c.done)
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(c.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			if events[i].Fd < 0 {
				return
			}
			if n, _ := unix.Read(int(events[i].Fd), buf); n > 0 {
				c.read += int64(bytes.Count(buf[:n], []byte("x"))) // without the framing: it varies
			}
		}
		if want := c.want.Load(); want > 0 && c.read >= want {
			c.want.Store(0)
			c.reached <- struct{}{}
		}
	}
}

// join connects one client and returns the server's end.
func (c *crowd) join(b testing.TB) net.Conn {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	c.fds = append(c.fds, fd)
	port := c.l.Addr().(*net.TCPAddr).Port
	to := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Connect(fd, to); err != nil {
		b.Fatal(err)
	}
	input := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, input); err != nil {
		b.Fatal(err)
	}
	server, err := c.l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return server
}

func (c *crowd) close() {
	p := make([]int, 2)
	unix.Pipe(p)
	unix.Close(p[1])
	unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, p[0], &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	<-c.done
	for _, fd := range append(c.fds, p[0], c.epoll) {
		unix.Close(fd)
	}
	c.l.Close()
}

// expect says how many frames the clients will have read when wait returns.
func (c *crowd) expect(frames int) { c.want.Store(int64(frames) * frameFill) }

func (c *crowd) wait() { <-c.reached }

// BenchmarkFanOut tells many streams of one event each, and compares with what the kernel takes for
// the writes alone. A round ends when every client has read its frame.
func BenchmarkFanOut(b *testing.B) {
	const streams = 4000
	frame := newSameFrame()
	b.Run(fmt.Sprintf("streams=%d/by=write", streams), func(b *testing.B) {
		c := newCrowd(b)
		chunk := appendChunk(nil, string(frame.text), true)
		conns := make([]Conn, streams)
		host := mustNew(b, Options{Codec: frame, Workers: 1})
		defer host.Close()
		for i := range conns {
			conns[i], _ = host.Take(c.join(b))
			defer conns[i].Close()
		}
		b.ResetTimer()
		for round := range b.N {
			c.expect((round + 1) * streams)
			for _, conn := range conns {
				conn.Write(chunk)
			}
			c.wait()
		}
		b.ReportMetric(float64(b.N*streams)/b.Elapsed().Seconds(), "frames/s")
	})
	for _, users := range []int{1, streams} {
		for _, batches := range []int{1, 8} {
			name := "streams=%d/by=broadcaster/users=%d/batches=%d"
			b.Run(fmt.Sprintf(name, streams, users, batches), func(b *testing.B) {
				c := newCrowd(b)
				s := mustNew(b, Options{Codec: frame})
				defer s.Close()
				s.Start(0)
				for i := range streams {
					conn, err := s.Take(c.join(b))
					if err != nil {
						b.Fatal(err)
					}
					user := userOf(i % users)
					mustSubscribe(b, s, Subscription{User: user, Conn: conn, Chunked: true})
				}
				for s.Stats().Opened < streams {
					runtime.Gosched()
				}
				b.ResetTimer()
				lsn := uint64(0)
				for round := range b.N {
					c.expect((round + 1) * batches * streams)
					for range batches {
						for u := range users {
							lsn++
							s.Publish(0, userOf(u), lsn, frame.text[:100])
						}
						s.Flush(0, lsn, 0)
					}
					c.wait()
				}
				b.ReportMetric(float64(b.N*batches*streams)/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(float64(s.Stats().Writes)/float64(b.N*streams), "writes/stream")
			})
		}
	}
}

// BenchmarkListFanOut is BenchmarkFanOut for streams of a hundred users each, of four thousand: a
// round is as many frames, of forty users with a hundred streams each.
func BenchmarkListFanOut(b *testing.B) {
	const streams, users, each = 4000, 4000, 100
	frame := newSameFrame()
	for _, batches := range []int{1, 8} {
		b.Run(fmt.Sprintf("streams=%d/batches=%d", streams, batches), func(b *testing.B) {
			c := newCrowd(b)
			s := mustNew(b, Options{Codec: frame})
			defer s.Close()
			s.Start(0)
			for i := range streams {
				conn, err := s.Take(c.join(b))
				if err != nil {
					b.Fatal(err)
				}
				list := &List{IDs: &cursorIDs{}}
				for k := range each {
					list.Users = append(list.Users, userOf((i*7+k*41)%users))
				}
				mustSubscribe(b, s, Subscription{Conn: conn, Chunked: true, List: list})
			}
			for s.Stats().Opened < streams {
				runtime.Gosched()
			}
			lsn := uint64(0)
			frames := 0
			b.ResetTimer()
			for range b.N {
				frames += batches * streams
				c.expect(frames)
				for range batches {
					for range users / each {
						lsn++
						s.Publish(0, userOf(int(lsn)*17%users), lsn, frame.text[:100])
					}
					s.Flush(0, lsn, 0)
				}
				c.wait()
			}
			b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(float64(s.Stats().Writes)/float64(b.N*streams), "writes/stream")
		})
	}
}

// BenchmarkIdleStream reports the memory of a stream on a socket, one per user, the kernel's own
// aside.
func BenchmarkIdleStream(b *testing.B) {
	const streams = 8000
	for range b.N {
		c := newCrowd(b)
		s := mustNew(b, Options{Codec: newSameFrame(), Keepalive: 15 * time.Second})
		s.Start(0)
		before := inUse()
		goroutines := runtime.NumGoroutine()
		for i := range streams {
			conn, err := s.Take(c.join(b))
			if err != nil {
				b.Fatal(err)
			}
			mustSubscribe(b, s, Subscription{
				User: userOf(i), Conn: conn, Head: []byte(testHead), Chunked: true,
			})
		}
		for s.Stats().Opened < streams {
			runtime.Gosched()
		}
		b.ReportMetric(float64(inUse()-before)/streams, "B/stream")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/streams, "goroutines/stream")
		s.Close()
	}
}

// inUse is the memory of the heap and of stacks after a collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
