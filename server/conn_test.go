package server

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
)

// TestContinueBehindAPause: a connection that was idle for longer than WriteTimeout is told to go on with its body.
func TestContinueBehindAPause(t *testing.T) {
	for name, parkAfter := range map[string]time.Duration{"parked": time.Millisecond, "not parked": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(o *Options, _ *fakePresence) {
				o.parkAfter, o.WriteTimeout = parkAfter, deadlineSlack/2
			})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = r.Serve(ln) }()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			in := bufio.NewReader(c)
			for n := range 2 {
				<-time.After(time.Duration(n) * deadlineSlack * 6 / 5) // a pause is what it is about
				request := heartbeatText(validBody, testAuth, "Expect: 100-continue")
				head := request[:len(request)-len(validBody)]
				if _, err := io.WriteString(c, head); err != nil {
					t.Fatal(err)
				}
				for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
					if line, err := in.ReadString('\n'); err != nil || line != want {
						t.Fatalf("%q, %v", line, err)
					}
				}
				if _, err := io.WriteString(c, validBody); err != nil {
					t.Fatal(err)
				}
				readResponse(t, in, "POST").check(t, 204, "")
			}
		})
	}
}

// TestDeadlineIsSetSeldom: as long as the one that is set does, and never for a wait of another kind.
func TestDeadlineIsSetSeldom(t *testing.T) {
	began := time.Now()
	var d deadline
	rest := func(ms time.Duration) bool {
		return d.dueEarly(began.Add(ms*time.Millisecond), 100*time.Millisecond)
	}
	read := func(ms time.Duration) bool {
		d.asked = began.Add(ms * time.Millisecond)
		return d.due()
	}
	for n, step := range []struct {
		due  func(ms time.Duration) bool
		ms   time.Duration
		want bool
	}{
		{rest, 200, true}, {rest, 299, false}, {rest, 300, true}, {rest, 300, false}, {rest, 299, true},
		{read, 300, true}, {read, 1299, false}, {read, 1300, true}, {read, 1300, false},
		{rest, 1300, true}, {rest, 1301, false}, {read, 1301, true}, {read, 1302, false},
	} {
		if got := step.due(step.ms); got != step.want {
			t.Errorf("step %d: due is %v", n, got)
		}
	}
}
