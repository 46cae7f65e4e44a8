package server

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
)

// headCases are requests whose framing or head two servers on the way could read differently, and
// those beside them that are well. CRLF is written as a line end.
var headCases = []struct {
	name, request string // without a Host line where {host} is missing
	status        int
}{
	{"as it should be", "POST {path} HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"HTTP/1.0", "POST {path} HTTP/1.0\n{auth}{length}\n{body}", 204},
	{"HTTP/1.0, a host", "POST {path} HTTP/1.0\n{host}{auth}{length}\n{body}", 204},
	{"an empty line before it", "\nPOST {path} HTTP/1.1\n{host}{auth}{length}\n{body}", 204},

	{"HTTP/2.0", "POST {path} HTTP/2.0\n{host}{auth}{length}\n{body}", 505},
	{"HTTP/1.2", "POST {path} HTTP/1.2\n{host}{auth}{length}\n{body}", 505},
	{"HTTP/0.9", "POST {path} HTTP/0.9\n{host}{auth}{length}\n{body}", 505},
	{"HTTP/9.9", "GET / HTTP/9.9\n{host}\n", 505},
	{"the preface of HTTP/2", "PRI * HTTP/2.0\n\nSM\n\n", 400},
	{"HTTP/1.10", "POST {path} HTTP/1.10\n{host}{auth}{length}\n{body}", 400},
	{"http/1.1", "POST {path} http/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no version", "POST {path}\n{host}{auth}{length}\n{body}", 400},
	{"two spaces", "POST  {path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a tab in the line", "POST\t{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a space behind the version", "POST {path} HTTP/1.1 \n{host}{auth}{length}\n{body}", 400},
	{"a space in the target", "POST {path} x HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a method with a colon", "PO:ST {path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a method in lower case", "post {path} HTTP/1.1\n{host}{auth}\n", 405},
	{"a method like our mark", " \x01 {path} HTTP/1.1\n{host}{auth}\n", 400},

	{"a space in a name", "POST {path} HTTP/1.1\n{host}{auth}X Y: 1\n{length}\n{body}", 400},
	{"a space in Content-Length",
		"POST {path} HTTP/1.1\n{host}{auth}Content Length: 4\n{length}\n{body}", 400},
	{"a space before the colon",
		"POST {path} HTTP/1.1\n{host}{auth}Content-Length : 0\n{length}\n{body}", 400},
	{"a tab before the colon",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding\t: chunked\n{length}\n{body}", 400},
	{"a space before a name", "POST {path} HTTP/1.1\n X: 1\n{host}{auth}{length}\n{body}", 400},
	{"no colon", "POST {path} HTTP/1.1\n{host}{auth}broken\n{length}\n{body}", 400},
	{"no name", "POST {path} HTTP/1.1\n{host}{auth}: 1\n{length}\n{body}", 400},
	{"a control character in a name", "POST {path} HTTP/1.1\n{host}{auth}X\x01: 1\n{length}\n{body}",
		400},
	{"a quote in a name", "POST {path} HTTP/1.1\n{host}{auth}\"X\": 1\n{length}\n{body}", 400},
	{"an 8-bit name", "POST {path} HTTP/1.1\n{host}{auth}X\xe9: 1\n{length}\n{body}", 400},
	{"an underscore in a name", "POST {path} HTTP/1.1\n{host}{auth}X_Y: 1\n{length}\n{body}", 204},
	{"an empty value", "POST {path} HTTP/1.1\n{host}{auth}X:\n{length}\n{body}", 204},
	{"no space behind the colon", "POST {path} HTTP/1.1\n{host}{auth}X:1\n{length}\n{body}", 204},
	{"an 8-bit value", "POST {path} HTTP/1.1\n{host}{auth}X: \xe9\n{length}\n{body}", 204},

	{"a value in two lines", "POST {path} HTTP/1.1\n{host}{auth}X: 1\n 2\n{length}\n{body}", 400},
	{"a length in two lines", "POST {path} HTTP/1.1\n{host}{auth}Content-Length:\n\t9\n\n{body}", 400},
	{"a coding in two lines",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding:\n chunked\n\n0\n\n", 400},
	{"a line of spaces", "POST {path} HTTP/1.1\n{host}{auth}X: 1\n  \n{length}\n{body}", 400},
	{"LF for CRLF", "POST {path} HTTP/1.1\n{host}{auth}X: 1{LF}{length}\n{body}", 400},
	{"LF for CRLF at the end", "POST {path} HTTP/1.1\n{host}{auth}X: 1{LF}{LF}GET / HTTP/1.1\n\n", 400},
	{"an empty line that ends with LF", "POST {path} HTTP/1.1\n{host}{auth}X: 1\n{LF}{body}\n\n", 400},
	{"CR alone", "POST {path} HTTP/1.1\n{host}{auth}X: 1\rY: 2\n{length}\n{body}", 400},
	{"CR CR LF", "POST {path} HTTP/1.1\n{host}{auth}X: 1\r\n{length}\n{body}", 400},
	{"NUL in a value", "POST {path} HTTP/1.1\n{host}{auth}X: 1\x002\n{length}\n{body}", 400},
	{"a control character in a value", "POST {path} HTTP/1.1\n{host}{auth}X: \x0b\n{length}\n{body}",
		400},

	{"two equal lengths", "POST {path} HTTP/1.1\n{host}{auth}{length}{length}\n{body}", 400},
	{"two lengths", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: 0\n{length}\n{body}", 400},
	{"a list of lengths", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: 5, 5\n\n{body}", 400},
	{"a signed length", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: +5\n\n{body}", 400},
	{"a negative length", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: -1\n\n{body}", 400},
	{"a hexadecimal length", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: 0x5\n\n{body}", 400},
	{"an empty length", "POST {path} HTTP/1.1\n{host}{auth}Content-Length:\n\n{body}", 400},
	{"a length with a point", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: 5.0\n\n{body}", 400},
	{"a length past 64 bits",
		"POST {path} HTTP/1.1\n{host}{auth}Content-Length: 18446744073709551621\n\n{body}", 400},
	{"a length of two words", "POST {path} HTTP/1.1\n{host}{auth}Content-Length: 5 5\n\n{body}", 400},

	{"chunked", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n{chunks}", 204},
	{"Chunked", "POST {path} HTTP/1.1\n{host}{auth}transfer-encoding: Chunked\n\n{chunks}", 204},
	{"a coding and a length",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n{length}\n{chunks}", 400},
	{"a length and a coding",
		"POST {path} HTTP/1.1\n{host}{auth}{length}Transfer-Encoding: chunked\n\n{chunks}", 400},
	{"two codings", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n" +
		"Transfer-Encoding: chunked\n\n{chunks}", 400},
	{"chunked twice",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked, chunked\n\n{chunks}", 400},
	{"gzip, chunked",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: gzip, chunked\n\n{chunks}", 400},
	{"chunked, gzip",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked, gzip\n\n{chunks}", 400},
	{"identity", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: identity\n\n", 400},
	{"identity and a length",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: identity\n{length}\n{body}", 400},
	{"a coding in quotes",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: \"chunked\"\n\n{chunks}", 400},
	{"a coding with a parameter",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked;x=1\n\n{chunks}", 400},
	{"an unknown coding",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: xchunked\n\n{chunks}", 400},
	{"an empty coding", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding:\n\n", 400},
	{"chunks over HTTP/1.0",
		"POST {path} HTTP/1.0\n{auth}Transfer-Encoding: chunked\n\n{chunks}", 400},

	{"a chunk that ends with LF", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"2{LF}{}\n0\n\n", 400},
	{"an extension with LF", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"2;x{LF}{}\n0\n\n", 400},
	{"a hexadecimal prefix", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"0x2\n{}\n0\n\n", 400},
	{"a signed chunk", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"+2\n{}\n0\n\n", 400},
	{"a chunk past 64 bits", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"10000000000000002\n{}\n0\n\n", 400},
	{"a chunk that is longer than it says",
		"POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n1\n{}\n0\n\n", 400},
	{"a length in the trailer", "POST {path} HTTP/1.1\n{host}{auth}Transfer-Encoding: chunked\n\n" +
		"2\n{}\n0\nContent-Length: 5\n\n", 400},

	{"no host", "POST {path} HTTP/1.1\n{auth}{length}\n{body}", 400},
	{"two hosts", "POST {path} HTTP/1.1\n{host}{host}{auth}{length}\n{body}", 400},
	{"an empty host", "POST {path} HTTP/1.1\nHost:\n{auth}{length}\n{body}", 400},
	{"a host with a user", "POST {path} HTTP/1.1\nHost: a@b\n{auth}{length}\n{body}", 400},
	{"a host with a path", "POST {path} HTTP/1.1\nHost: a/b\n{auth}{length}\n{body}", 400},
	{"a host of two words", "POST {path} HTTP/1.1\nHost: a b\n{auth}{length}\n{body}", 400},
	{"a list of hosts", "POST {path} HTTP/1.1\nHost: a:1:2\n{auth}{length}\n{body}", 400},
	{"a port", "POST {path} HTTP/1.1\nHost: a.example:8787\n{auth}{length}\n{body}", 204},
	{"an IPv6 address", "POST {path} HTTP/1.1\nHost: [::1]:8787\n{auth}{length}\n{body}", 204},
	{"an underscore in the host", "POST {path} HTTP/1.1\nHost: a_b\n{auth}{length}\n{body}", 204},

	{"the absolute form", "POST http://b{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"the absolute form, https", "POST HTTPS://b:1{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"the absolute form, no host line", "POST http://b{path} HTTP/1.1\n{auth}{length}\n{body}", 400},
	{"another scheme", "POST ftp://b{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no authority", "POST http://{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a user in the target", "POST http://u@b{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no leading slash", "POST api HTTP/1.1\n{host}{auth}\n", 400},
	{"an asterisk", "POST * HTTP/1.1\n{host}{auth}\n", 400},
	{"two slashes", "POST /{path} HTTP/1.1\n{host}{auth}\n", 404},
	{"a host behind two slashes", "POST //b{path} HTTP/1.1\n{host}{auth}\n", 404},
	{"a host behind two slashes, and a scheme",
		"POST //b{path}?:// HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a host behind two slashes, HTTP/1.0", "POST //b{path} HTTP/1.0\n{auth}{length}\n{body}", 400},
	{"a scheme in the query", "POST {path}?u=http://b HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"a fragment", "POST {path}#x HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a fragment in the query", "POST {path}?a#x HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"NUL in the target", "POST {path}?a\x00 HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"CR in the target", "POST {path}?a\rb HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"DEL in the target", "POST {path}?a\x7f HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a tab in the target", "POST {path}?a\tb HTTP/1.1\n{host}{auth}{length}\n{body}", 400},

	{"an escape", "POST {path}%41 HTTP/1.1\n{host}{auth}\n", 404},
	{"an escape that is no number", "POST {path}%en HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"an escape that is cut", "POST {path}%e HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a percent sign", "POST {path}%?a HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"an escape in two parts", "POST {path}%?41 HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"a percent sign in the query", "POST {path}?a=% HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"an escape in a host", "POST http://b%41{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no number in a host", "POST http://b%en{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no number behind a host",
		"POST http://b{path}%en HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"two ports", "POST http://b:1:2{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"no number for a port", "POST http://b:x{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"half a bracket", "POST http://[::1{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"brackets around a name", "POST http://[b]{path} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},
	{"CONNECT", "CONNECT b:1 HTTP/1.1\n{host}{auth}\n", 404},
	{"CONNECT, no number", "CONNECT b%en:1 HTTP/1.1\n{host}{auth}\n", 400},

	{"as many parameters as may be", "POST {path}?{127 &} HTTP/1.1\n{host}{auth}{length}\n{body}", 204},
	{"too many parameters", "POST {path}?{128 &} HTTP/1.1\n{host}{auth}{length}\n{body}", 400},

	{"as many lines as may be", "POST {path} HTTP/1.1\n{host}{auth}{length}{125 lines}\n{body}", 204},
	{"too many lines", "POST {path} HTTP/1.1\n{host}{auth}{length}{126 lines}\n{body}", 431},
	{"as many lines as fit", "POST {path} HTTP/1.1\n{host}{auth}{length}{3000 lines}\n{body}", 431},
}

func headText(request string) string {
	lines := func(n int) string { return strings.Repeat("a:\n", n) }
	text := strings.NewReplacer(
		"{path}", wire.HeartbeatPath, "{host}", "Host: test\n", "{auth}", testAuth+"\n",
		"{length}", fmt.Sprintf("Content-Length: %d\n", len(validBody)), "{LF}", "\x1e",
		"{chunks}", fmt.Sprintf("%x\n%s\n0\n\n", len(validBody), validBody), "{body}", validBody,
		"{127 &}", strings.Repeat("a&", 127), "{128 &}", strings.Repeat("&", 128),
		"{125 lines}", lines(125), "{126 lines}", lines(126), "{3000 lines}", lines(3000),
	).Replace(request)
	return strings.NewReplacer("\n", "\r\n", "\x1e", "\n").Replace(text)
}

// TestHeads: what could be read in two ways is refused, applies nothing, and ends the connection:
// what stands behind it is no request. What is well is served, and so is the request behind it.
func TestHeads(t *testing.T) {
	r := start(t, nil)
	next := heartbeatText(validBody, testAuth)
	for _, test := range headCases {
		t.Run(test.name, func(t *testing.T) {
			c, err := r.public.Dial()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(testwait.Limit))
			go func() { _, _ = io.WriteString(c, headText(test.request)+next) }()
			in := bufio.NewReader(c)
			got := readResponse(t, in, "POST")
			checkCommon(t, got)
			if got.status != test.status {
				t.Errorf("answer %d %s, want %d", got.status, got.body, test.status)
			}
			well := test.status == 204 || test.status == 404 || test.status == 405
			if well != !got.closes && !strings.Contains(test.request, "HTTP/1.0") {
				t.Errorf("the connection closes: %v", got.closes)
			}
			if got.closes {
				if text, err := io.ReadAll(in); err != nil || len(text) > 0 {
					t.Errorf("behind the answer came %q, %v", text, err)
				}
				if _, applied := r.presence.last(); applied != well {
					t.Errorf("applied: %v", applied)
				}
				return
			}
			readResponse(t, in, "POST").check(t, 204, "")
			r.presence.last()
		})
	}
}

// TestHeadsAreJudgedBeforeTheBody: a refusal does not wait for what may never come, and nothing of
// a head with thousands of lines is kept meanwhile.
func TestHeadsAreJudgedBeforeTheBody(t *testing.T) {
	r := start(t, nil)
	for _, request := range []string{
		"POST {path} HTTP/2.0\n{host}{length}\n",
		"POST {path} HTTP/1.1\n{host}{length}X Y: 1\n\n",
		"POST {path} HTTP/1.1\n{host}{length}{3000 lines}\n",
		"POST {path} HTTP/1.1\n{host}Transfer-Encoding: chunked\n{length}\n",
		"POST {path} HTTP/1.1\n{host}Expect: 100-continue\n{length}{3000 lines}\n",
	} {
		if got := r.send(t, headText(request)); got.status < 400 || !got.closes {
			t.Errorf("%.70q: answer %d %s", request, got.status, got.body)
		}
	}
	if n := r.counters.Answers[reply.TooManyHeaderLines].Load(); n != 2 {
		t.Errorf("too many lines were counted %d times, not twice", n)
	}
}

// FuzzHeads: what the server takes as a request, net/http takes too, and both find the next request
// at the same place.
func FuzzHeads(f *testing.F) {
	for _, test := range headCases {
		f.Add(headText(test.request))
		f.Add(headText(test.request + test.request))
	}
	r := start(f, func(o *Options, p *fakePresence) {
		o.ReadTimeout = 50 * time.Millisecond // what is not whole is answered 408
		p.heartbeat = func(*engine.Heartbeat) engine.Result { return engine.Result{} }
	})
	f.Fuzz(func(t *testing.T, requests string) {
		requests += "\r\n\r\nEND\r\n\r\n" // no request, whatever comes before
		c, err := r.public.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testwait.Limit))
		go func() { _, _ = io.WriteString(c, requests) }()
		ours, theirs := bufio.NewReader(c), bufio.NewReader(strings.NewReader(requests))
		for {
			got, err := http.ReadResponse(ours, nil)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, got.Body)
			if got.StatusCode == http.StatusContinue {
				continue
			}
			skipEmptyLines(theirs)
			req, err := http.ReadRequest(theirs)
			switch got.StatusCode {
			case 400, 408, 413, 431, 505:
				return
			}
			if err != nil {
				t.Fatalf("answered %d, but no request: %v", got.StatusCode, err)
			}
			if got.Close { // it may not have read the body
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				t.Fatalf("answered %d, but its body is not whole: %v", got.StatusCode, err)
			}
		}
	})
}

// skipEmptyLines skips what may stand before a request (RFC 9112, section 2.2).
func skipEmptyLines(r *bufio.Reader) {
	for {
		if b, err := r.Peek(1); err != nil || b[0] != '\r' && b[0] != '\n' {
			return
		}
		_, _ = r.ReadByte()
	}
}
