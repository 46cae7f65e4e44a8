package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testwait"
	"rollcall/wire"
)

// TestHeartbeatCodings: a single heartbeat may be packed, and its 16 KiB are those of what it
// unpacks to.
func TestHeartbeatCodings(t *testing.T) {
	r := start(t, nil)
	most := validBody + strings.Repeat(" ", wire.MaxBodyBytes-len(validBody))
	const tooLarge, noJSON = "Payload too large", "Invalid JSON payload"
	const notPacked = "The body is not what Content-Encoding says, or was cut"
	const unknown = "Content-Encoding must be gzip, zstd or none"
	for _, test := range []struct {
		name, coding, body string
		status             int
		details            string
	}{
		{"gzip", "gzip", pack(t, "gzip", validBody), 204, ""},
		{"GZip", "GZip", pack(t, "gzip", validBody), 204, ""},
		{"x-gzip", "X-GZIP", pack(t, "gzip", validBody), 204, ""},
		{"two members", "gzip", pack(t, "gzip", validBody[:9]) + pack(t, "gzip", validBody[9:]), 204,
			""},
		{"zstd", "ZSTD", pack(t, "zstd", validBody), 204, ""},
		{"zstd of 8 MiB", "zstd", packWindow(t, zstdWindowBytes, validBody), 204, ""},
		{"identity", "Identity", validBody, 204, ""},
		{"none", "", validBody, 204, ""},
		{"another, not packed", "utf-8", validBody, 204, ""},
		{"another", "br", "\x8b\x02\x80{}", 415, unknown},
		{"one over the other", "gzip, gzip", pack(t, "gzip", validBody), 415, unknown},
		{"gzip, full", "gzip", pack(t, "gzip", most), 204, ""},
		{"zstd, full", "zstd", pack(t, "zstd", most), 204, ""},
		{"zstd, full, of unknown size", "zstd", packWindow(t, 1<<20, most), 204, ""},
		{"gzip, one more", "gzip", pack(t, "gzip", most+" "), 413, tooLarge},
		{"zstd, one more", "zstd", pack(t, "zstd", most+" "), 413, tooLarge},
		{"gzip bomb", "gzip", pack(t, "gzip", strings.Repeat(" ", 8<<20)), 413, tooLarge},
		{"zstd bomb", "zstd", pack(t, "zstd", strings.Repeat(" ", 8<<20)), 413, tooLarge},
		{"zstd bomb of unknown size", "zstd", packWindow(t, 1<<20, strings.Repeat(" ", 8<<20)), 413,
			tooLarge},
		{"zstd of 16 MiB", "zstd", packWindow(t, 16<<20, validBody), 415,
			"The window of a zstd body may have 8 MiB"},
		{"no gzip", "gzip", validBody, 400, notPacked},
		{"no zstd", "zstd", validBody, 400, notPacked},
		{"gzip, cut", "gzip", pack(t, "gzip", validBody)[:60], 400, notPacked},
		{"zstd, cut", "zstd", pack(t, "zstd", validBody)[:60], 400, notPacked},
		{"gzip, empty", "gzip", "", 400, notPacked},
		{"zstd, empty", "zstd", "", 400, notPacked},
		{"no JSON", "gzip", pack(t, "gzip", "{"), 400, noJSON},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := r.send(t, heartbeatText(test.body, testAuth, "Content-Encoding: "+test.coding))
			body := ""
			if test.details != "" {
				body = errorBody("invalid_payload", test.details)
			}
			got.check(t, test.status, body)
			if accept := got.header.Get("Accept-Encoding"); (test.status == 415) != (accept != "") {
				t.Errorf("Accept-Encoding = %q", accept)
			}
			if _, applied := r.presence.last(); applied != (test.status == 204) {
				t.Errorf("applied: %v", applied)
			}
		})
	}
}

// TestCutBodies: a body that ends before it says so is no whole one, wherever it is cut: between
// two chunks, too, over TLS, too. Nothing is applied of a line whose end did not come.
func TestCutBodies(t *testing.T) {
	r := start(t, nil)
	plain, secure := r.sockets(t, false), r.sockets(t, true)
	chunked := func(path, body string, headers ...string) string {
		headers = append(headers, testAuth, "Transfer-Encoding: chunked")
		return text("POST "+path, "", headers...) + fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
	}
	two := validBody + "\n" + validBody
	packed := pack(t, "gzip", validBody+"\n") + pack(t, "gzip", validBody)
	gz := "Content-Encoding: gzip"
	for _, test := range []struct {
		name, request  string
		status, before int // accepted before the cut; -1: of the single route
	}{
		{"heartbeat", chunked(wire.HeartbeatPath, validBody), 400, -1},
		{"heartbeat, whole", chunked(wire.HeartbeatPath, validBody) + "0\r\n\r\n", 204, -1},
		{"heartbeat, in the last chunk", chunked(wire.HeartbeatPath, validBody) + "0\r\n", 400, -1},
		{"heartbeat of a length", text("POST "+wire.HeartbeatPath, "", testAuth,
			fmt.Sprint("Content-Length: ", len(validBody)+3)) + validBody, 400, -1},
		{"heartbeat, packed", chunked(wire.HeartbeatPath, pack(t, "gzip", validBody), gz), 400, -1},
		{"batch", chunked(wire.HeartbeatsPath, two, ndjson), 400, 1},
		{"batch, whole", chunked(wire.HeartbeatsPath, two, ndjson) + "0\r\n\r\n", 200, 2},
		{"batch, in a chunk's size", chunked(wire.HeartbeatsPath, two, ndjson) + "5", 400, 1},
		{"batch, array", chunked(wire.HeartbeatsPath, "["+validBody+","+validBody+"]", jsonArray),
			400, 2},
		{"batch, packed", chunked(wire.HeartbeatsPath, packed, ndjson, gz), 400, 0},
	} {
		for name, dial := range map[string]func() net.Conn{"": plain, " over TLS": secure} {
			t.Run(test.name+name, func(t *testing.T) {
				c := dial()
				defer c.Close()
				if _, err := io.WriteString(c, test.request); err != nil {
					t.Fatal(err)
				}
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				got := readResponse(t, bufio.NewReader(c), "POST")
				if test.before < 0 {
					if got.status != test.status {
						t.Errorf("%d %s, want %d", got.status, got.body, test.status)
					}
					return
				}
				if b := got.batch(t, test.status); b.Accepted != test.before {
					t.Errorf("%+v, want %d accepted", b, test.before)
				}
			})
		}
	}
}

// sockets serves r on a socket, and returns how to connect.
func (r *running) sockets(t *testing.T, secure bool) (dial func() net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := ln
	if secure {
		own := httptest.NewTLSServer(nil) // for its certificate
		own.Close()
		served = tls.NewListener(ln, &tls.Config{Certificates: own.TLS.Certificates})
	}
	go func() {
		if err := r.Serve(served); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	}()
	return func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil && secure {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(testwait.Limit))
		return c
	}
}
