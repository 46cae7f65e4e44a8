package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rollcall/internal/testproc"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// TestLoopsLeaveNothingBehind: connections that a loop has served and that end in every way leave
// no count, no descriptor and no goroutine. ROLLCALL_LOOP_CONNECTIONS is how many.
func TestLoopsLeaveNothingBehind(t *testing.T) {
	connections := testseed.Rounds(t, "ROLLCALL_LOOP_CONNECTIONS", 1000, 5000)
	seed := testseed.Of(t)
	before := goleak.IgnoreCurrent()
	files := testproc.Descriptors(t)
	t.Run("", func(t *testing.T) {
		w := startWhole(t, wholeOptions{server: func(o *Options) { o.Loops = 2 }})
		const clients = 16
		var all sync.WaitGroup
		for n := range clients {
			all.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(n)))
				for range connections / clients {
					endSomehow(t, w, random)
				}
			})
		}
		all.Wait()
		s := w.conns.Stats()
		if want := uint64(connections / clients * clients); s.Suspended < want || s.Plain < want {
			t.Errorf("of %d connections %d entered a loop, which served %d heartbeats", want,
				s.Suspended, s.Plain)
		}
		testwait.Until(t, "no connection is left", func() bool {
			s := w.conns.Stats()
			return s.Open == 0 && s.Idle == 0 && w.engine.OpenStreams() == 0
		})
	})
	goleak.VerifyNone(t, before,
		// one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// ends when it wakes up
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
	testwait.Until(t, "the descriptors are given back",
		func() bool { return testproc.Descriptors(t) <= files })
}

// endSomehow has a loop serve a new connection, and ends that in one of the ways in which one can
// end. It is called from several goroutines.
func endSomehow(t *testing.T, w *whole, random *rand.Rand) {
	dialer := net.Dialer{LocalAddr: uniqueAddr()}
	nc, err := dialer.Dial("tcp4", w.addr.String())
	if err != nil {
		t.Error(err)
		return
	}
	c, in := nc.(*net.TCPConn), bufio.NewReader(nc)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testwait.Limit))
	user := uuid.NewString()
	own := func(text string) string { return strings.ReplaceAll(text, testUser, user) }
	answered := func(what string, request, status string) bool {
		_, _ = io.WriteString(c, own(request))
		for line := " "; line != "\r\n"; {
			if line, err = in.ReadString('\n'); err != nil {
				t.Errorf("%s: %v", what, err)
				return false
			}
			if status != "" && !strings.HasPrefix(line, "HTTP/1.1 "+status) {
				t.Errorf("%s: %q", what, line)
				return false
			}
			status = ""
		}
		return true
	}
	if !answered("the first heartbeat", seqText(1), "204") ||
		!answered("the second heartbeat", seqText(2), "204") {
		return
	}
	next := own(seqText(3))
	switch random.IntN(8) {
	case 0: // in order
	case 1:
		_ = c.SetLinger(0) // a reset
	case 2:
		_, _ = io.WriteString(c, next[:1+random.IntN(len(next)-1)])
		_ = c.SetLinger(random.IntN(2) - 1)
	case 3: // the answer is not awaited
		_, _ = io.WriteString(c, next+own(seqText(4)))
		_ = c.SetLinger(random.IntN(2) - 1)
	case 4:
		answered("the last heartbeat", seqText(3, testAuth, "Connection: close"), "204")
		if _, err := in.ReadByte(); err != io.EOF {
			t.Errorf("behind the last answer: %v", err)
		}
	case 5:
		answered("another route", text("OPTIONS /", ""), "204")
		answered("a heartbeat behind it", seqText(3), "204")
	case 6:
		key := sign(t, testKey, own(payload("")))
		answered("a stream", streamText("?user_id="+user, key), "200")
		_ = c.SetLinger(random.IntN(2) - 1)
	case 7:
		_, _ = io.WriteString(c, next)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, in)
	}
}

// TestLoopTimeouts: a request that does not become whole, a connection without one, and a client
// that takes no answers end alike with loops and without.
func TestLoopTimeouts(t *testing.T) {
	const timeout = 1500 * time.Millisecond
	whole := seqText(3)
	begun := []struct{ name, text string }{
		{"idle", ""},
		{"a byte", whole[:1]},
		{"a part of a head", whole[:100]},
		{"a part of a body", whole[:len(whole)-1]},
		{"a part behind a heartbeat", whole + whole[:30]},
		{"a part of another request", "GET / HTTP/1.1\r\nHost: x\r\n"},
		{"byte for byte", ""},
	}
	got := map[int][]string{}
	for _, loops := range []int{1, -1} {
		w := startWhole(t, wholeOptions{server: func(o *Options) {
			o.Loops = loops
			o.ReadTimeout, o.WriteTimeout, o.IdleTimeout = timeout, timeout, 2*timeout
		}})
		all := w.daemons(t, len(begun)+1)
		for i, b := range begun {
			all[i].write(strings.ReplaceAll(b.text, testUser, all[i].user))
		}
		slow := all[len(begun)-1]
		go func() { // longer than the timeout, though each byte comes soon
			for i := range whole {
				if _, err := io.WriteString(slow, whole[i:i+1]); err != nil {
					return
				}
				<-time.After(timeout / 20)
			}
		}()
		deaf := all[len(begun)]
		_ = deaf.Conn.(*net.TCPConn).SetReadBuffer(4096)
		for many := strings.Repeat(deaf.beatText(3), 100); ; {
			if _, err := io.WriteString(deaf, many); err != nil {
				break // how it ends depends on what is under way
			}
		}
		for i := range begun {
			got[loops] = append(got[loops], all[i].rest())
		}
		testwait.Until(t, "the connections are off the counts", func() bool {
			return w.conns.Stats().Open == 0
		})
	}
	for i, b := range begun {
		with, without := got[1][i], got[-1][i]
		if with != without {
			t.Errorf("%s, with a loop: %q, without: %q", b.name, with, without)
		}
		if told := strings.Contains(with, " 408 "); told != (b.name != "idle") {
			t.Errorf("%s: %q", b.name, with)
		}
	}
}

// rest is what comes until the end of the connection, and how that is.
func (l *looped) rest() string {
	l.t.Helper()
	got, err := io.ReadAll(l.in)
	if err != nil && !isReset(err) {
		l.t.Error(err)
	}
	return fmt.Sprintf("%s, %v", date.ReplaceAllString(string(got), ""), isReset(err))
}

// TestDrainAnswersWhatHasBegun: of a request a part of which is there when Close begins, the rest
// is awaited, and it is answered.
func TestDrainAnswersWhatHasBegun(t *testing.T) {
	for _, loops := range []int{1, -1} {
		t.Run(fmt.Sprintf("loops=%d", loops), func(t *testing.T) {
			t.Parallel()
			queue := newReceiveQueue(t)
			var begun atomic.Int64 // with fasthttp
			w := startWhole(t, wholeOptions{
				server: func(o *Options) { o.Loops = loops },
				begins: func() { begun.Add(1) },
			})
			all := w.daemons(t, 4)
			for i, l := range all[1:] {
				next, before := l.beatText(3), begun.Load()
				l.write(next[:[]int{1, 200, len(next) - 1}[i]])
				testwait.Until(t, "it is read", func() bool {
					unread, _ := queue.of(t, l.Conn)
					// Between reading it and knowing that, fasthttp would close the connection.
					return unread == 0 && (loops > 0 || begun.Load() > before)
				})
			}
			closed := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
				defer cancel()
				closed <- w.Close(ctx)
			}()
			all[0].ended() // it is idle
			for i, l := range all[1:] {
				next := l.beatText(3)
				l.write(next[[]int{1, 200, len(next) - 1}[i]:])
				if got := readResponse(t, l.in, "POST"); got.status != 204 || !got.closes {
					t.Errorf("answer %d, closes: %v", got.status, got.closes)
				}
				l.ended()
			}
			if err := testwait.For(t, "Close returns", closed); err != nil {
				t.Error(err)
			}
		})
	}
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET)
}
