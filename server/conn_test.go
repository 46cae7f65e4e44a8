package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
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

// TestContinueIsForBodiesThatAreWanted: a client that waits with its body is told at once what no
// body could mend, and only otherwise to go on.
func TestContinueIsForBodiesThatAreWanted(t *testing.T) {
	r := start(t, nil)
	one, many := "POST "+wire.HeartbeatPath, "POST "+wire.HeartbeatsPath
	const length = "Content-Length: 210"
	for _, test := range []struct {
		name, line string
		headers    []string
		want       int
	}{
		{"a heartbeat", one, []string{testAuth, length}, 100},
		{"chunks", one, []string{testAuth, "Transfer-Encoding: chunked"}, 100},
		{"any case", one, []string{testAuth, length, "expect: 100-Continue"}, 100},
		{"no token", one, []string{length}, 401},
		{"another token", one, []string{"Authorization: Bearer x", length}, 401},
		{"too large", one, []string{testAuth, "Content-Length: 16385"}, 413},
		{"too large, no token", one, []string{"Content-Length: 16385"}, 401},
		{"a batch", many, []string{testAuth, "Content-Length: 4194304"}, 100},
		{"a batch without a token", many, []string{length}, 401},
		{"a batch of no type", many, []string{testAuth, length, "Content-Type: text/plain"}, 415},
		{"a batch in no coding", many, []string{testAuth, length, "Content-Encoding: br"}, 415},
		{"a batch that is too large", many, []string{testAuth, "Content-Length: 4194305"}, 413},
		{"a stream without a token", "GET " + wire.StreamPath + "?user_id=" + testUser,
			[]string{length}, 401},
		{"another method", "PUT " + wire.HeartbeatPath, []string{testAuth, length}, 405},
		{"no route", "POST /nope", []string{testAuth, length}, 404},
		{"a preflight", "OPTIONS " + wire.HeartbeatPath, []string{length}, 204},
		{"a broken head", one, []string{testAuth, length, "X Y: 1"}, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := r.public.Dial()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(testwait.Limit))
			request := text(test.line, "", append(test.headers, "Expect: 100-continue")...)
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(c)
			got, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.StatusCode != test.want || got.Close != (test.want != 100) {
				t.Errorf("answer %d, closes %v, want %d", got.StatusCode, got.Close, test.want)
			}
			if test.want == 100 {
				return
			}
			if got.Header.Get("Access-Control-Allow-Origin") != "*" ||
				(test.want >= 400) != (got.Header.Get("Content-Type") == wire.JSONType) {
				t.Errorf("answer %d has %v", got.StatusCode, got.Header)
			}
			_, _ = io.Copy(io.Discard, got.Body)
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("behind the answer came %q, %v", rest, err)
			}
		})
	}
	if n := r.counters.Heartbeats[reply.Unauthorized].Load(); n != 4 {
		t.Errorf("%d heartbeats without their token were counted, not 4", n)
	}
}
