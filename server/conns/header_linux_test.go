package conns

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pires/go-proxyproto"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
)

// header is a header of a version for a client, followed by so many bytes of other fields.
func header(t testing.TB, version byte, client string, more int) string {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, tcpAddr(client), tcpAddr(client))
	if more > 0 {
		value := bytes.Repeat([]byte{'x'}, more)
		noop := proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: value}
		if err := h.SetTLVs([]proxyproto.TLV{noop}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// TestReadHeader: the address of each form, and not a byte of what follows.
func TestReadHeader(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"version 1":           {header(t, 1, "192.0.2.1", 0), "192.0.2.1"},
		"version 1, IPv6":     {header(t, 1, "2001:db8::1", 0), "2001:db8::1"},
		"version 1, unknown":  {"PROXY UNKNOWN\r\n", "invalid IP"},
		"version 2":           {header(t, 2, "192.0.2.1", 0), "192.0.2.1"},
		"version 2, IPv6":     {header(t, 2, "2001:db8::1", 0), "2001:db8::1"},
		"version 2, long":     {header(t, 2, "192.0.2.1", 4000), "192.0.2.1"},
		"version 2, its own":  {localHeader, "invalid IP"},
		"version 2, too long": {header(t, 2, "192.0.2.1", 5000), "error"},
		"version 3":           {"\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", "error"},
		"endless line":        {"PROXY " + strings.Repeat("x", 200), "error"},
		"a request":           {"GET / HTTP/1.1\r\n\r\n", "error"},
		"a TLS session":       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "error"},
		"bad address":         {"PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n", "error"},
	} {
		const rest = "GET / HTTP/1.1\r\n"
		in := strings.NewReader(c.text + rest)
		got, err := readHeader(iotest.OneByteReader(in))
		if c.want == "error" {
			if !errors.Is(err, errHeader) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			continue
		}
		left, _ := io.ReadAll(in)
		if err != nil || got.String() != c.want || string(left) != rest {
			t.Errorf("%s: %v, %v, %q is left", name, got, err, left)
		}
		for cut := range len(c.text) {
			if _, err := readHeader(strings.NewReader(c.text[:cut])); err == nil ||
				cut == 0 != (err == io.EOF) {
				t.Errorf("%s, cut at %d: %v", name, cut, err)
			}
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte(header(f, 1, "192.0.2.1", 0)))
	f.Add([]byte(header(f, 2, "2001:db8::1", 30)))
	f.Add([]byte(localHeader))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bytes.NewReader(text)
		_, _ = readHeader(in)
		if used := len(text) - in.Len(); used > 16+maxHeaderBytes {
			t.Errorf("%d bytes were read", used)
		}
	})
}

func headed(change func(*Config)) func(*rig, *Config) {
	return func(_ *rig, c *Config) {
		c.Headers = true
		if change != nil {
			change(c)
		}
	}
}

// TestHeadedIsServed: requests that come with the header in one piece, or cut anywhere, are
// answered; the connection is suspended, resumed, and becomes a stream, as any other.
func TestHeadedIsServed(t *testing.T) {
	r := start(t, headed(nil))
	addr := r.listen(t, "tcp")
	for version := byte(1); version <= 2; version++ {
		text := header(t, version, "192.0.2.1", 0) + request(1)
		for cut := range len(text) {
			c := dial(t, addr)
			_ = c.Conn.(*net.TCPConn).SetNoDelay(true)
			c.write(text[:cut])
			c.write(text[cut:])
			c.answered(1)
			c.Close()
		}
	}
	r.holdsNone(t)
	c := dial(t, addr)
	c.write(header(t, 2, "192.0.2.1", 0) + request(1) + request(2))
	c.answered(1)
	c.answered(2)
	r.holds(t, 1)
	c.ask(3)
	c.write("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
	raw, place, _ := Release(testwait.For(t, "the stream", r.streamed), netip.Addr{})
	if _, tcp := raw.(*net.TCPConn); !tcp || place.source.String() != "192.0.2.1/32" {
		t.Errorf("released %T of %v", raw, place.source)
	}
	place.Leave()
	_ = raw.Close()
	r.holdsNone(t)
}

// TestHeadedCountsForItsClient: a connection counts for the address of its header, from the header
// until it is closed; one with the proxy's own address, as of its health checks, does not count.
func TestHeadedCountsForItsClient(t *testing.T) {
	r := start(t, headed(func(c *Config) {
		c.MaxPerIP = 1
		c.Proxies, _ = ParseProxies([]string{"127.0.0.1"})
	}))
	addr := r.listen(t, "tcp")
	open := func(header string) *client {
		c := dial(t, addr)
		c.write(header + request(1))
		return c
	}
	first := open(header(t, 2, "192.0.2.1", 0))
	first.answered(1)
	open(header(t, 2, "192.0.2.2", 0)).answered(1)
	open(localHeader).answered(1)
	open(localHeader).answered(1)
	for range 3 {
		r.holds(t, 4)
		again := open(header(t, 1, "192.0.2.1", 0))
		again.reads(503, reply.TooManyConnsOfAddress.Details())
		again.Close()
	}
	first.Close()
	testwait.Until(t, "the first is closed", func() bool { return r.Stats().Open == 3 })
	open(header(t, 1, "192.0.2.1", 0)).answered(1)
}

// TestHeaderIsNotBelieved of a peer that is not a proxy, and not missed of one.
func TestHeaderIsNotBelieved(t *testing.T) {
	r := start(t, headed(func(c *Config) { c.Proxies, _ = ParseProxies([]string{"192.0.2.1"}) }))
	c := dial(t, r.listen(t, "tcp"))
	c.write(header(t, 1, "192.0.2.1", 0) + request(1))
	c.reads(400, "")
	c = dial(t, r.listen(t, "tcp"))
	c.ask(1)
	if n := r.Stats().BadHeaders; n != 0 {
		t.Errorf("%d headers are missed", n)
	}
	r.close(t)
}

// TestNoHeader: the connection ends without a word, and is counted, but for one that says nothing.
func TestNoHeader(t *testing.T) {
	r := start(t, headed(nil))
	addr := r.listen(t, "tcp")
	dial(t, addr).Close()
	r.holdsNone(t)
	for n, text := range []string{request(1), "PROXY TCP4 nowhere\r\n", header(t, 2, "::1", 0)[:20]} {
		c := dial(t, addr)
		c.write(text)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		c.ended()
		testwait.Until(t, "it is counted", func() bool { return r.Stats().BadHeaders == uint64(n+1) })
	}
	r.holdsNone(t)
	if n := r.unread.Load(); n > 0 {
		t.Errorf("%d are answered", n)
	}
}

// TestHeaderUnderTLS: it comes before the session.
func TestHeaderUnderTLS(t *testing.T) {
	failed := errors.New("no certificate")
	seen := make(chan struct{}, 1)
	r := start(t, headed(func(c *Config) {
		c.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.ServerName == "rollcall.test" {
				seen <- struct{}{}
			}
			return nil, failed
		}}
	}))
	c := dial(t, r.listen(t, "tcp"))
	c.write(header(t, 2, "192.0.2.1", 100))
	if err := tls.Client(c.Conn, &tls.Config{ServerName: "rollcall.test"}).Handshake(); err == nil {
		t.Error("a handshake without a certificate")
	}
	testwait.For(t, "the handshake", seen)
	c.Close()
	r.holdsNone(t)
}
