package server

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
)

// TestContinueBehindAPause: a connection that was idle for longer than WriteTimeout gets
// 100 Continue.
func TestContinueBehindAPause(t *testing.T) {
	const slack = time.Second // how much earlier than asked a deadline may be
	for name, idleAfter := range map[string]time.Duration{"suspended": time.Millisecond,
		"not suspended": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(o *Options, _ *fakePresence) {
				o.idleAfter, o.WriteTimeout = idleAfter, slack/2
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
				<-time.After(time.Duration(n) * slack * 6 / 5) // a pause is what it is about
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
