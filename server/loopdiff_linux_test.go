package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"

	"rollcall/engine"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/internal/testwire"
	"rollcall/wire"
)

// twins are two servers that differ in nothing but that one has loops, which what they answer must
// not tell.
type twins struct {
	loops, none *whole
	queue       *receiveQueue
	known       uuid.UUID // the only user of a full table; nil: each run has another user
	runs        uint64
	header      string // in front of each connection, of a client of its own
}

// setup is a kind of server that twins can be.
type setup struct {
	server func(*Options)
	engine engine.Options
	far    bool
	header string // in front of each connection
}

// setups are the limits and policies that a heartbeat may meet.
var setups = map[string]setup{
	"default": {},
	"origins": {server: func(o *Options) { o.CORSOrigins = []string{"https://a.example"} }},
	"max ttl": {server: func(o *Options) { o.MaxTTL = time.Minute }},
	"rate": {server: func(o *Options) {
		o.RatePerIP, o.RateBurst = 1e-6, 4
	}},
	"proxies": {server: func(o *Options) {
		o.RatePerIP, o.RateBurst, o.TrustedProxies = 1e-6, 3, []string{"127.0.0.0/8"}
	}},
	"new devices": {server: func(o *Options) { o.NewDevicesPerIP = 1e-6 }},
	"rate, new devices": {server: func(o *Options) {
		o.RatePerIP, o.RateBurst, o.NewDevicesPerIP = 1e-6, 4, 3
	}},
	"rate, devices per user": {
		server: func(o *Options) { o.RatePerIP, o.RateBurst = 1e-6, 4 },
		engine: engine.Options{MaxDevicesPerUser: 1},
	},
	"devices per user":       {engine: engine.Options{MaxDevicesPerUser: 2}},
	"full":                   {engine: engine.Options{MaxDevices: 1, SeqPolicy: engine.Restart}},
	"answers from elsewhere": {far: true},
	"answers from elsewhere, rate, new devices": {far: true, server: func(o *Options) {
		o.RatePerIP, o.RateBurst, o.NewDevicesPerIP = 1e-6, 3, 1e-6
	}},
	"answers from elsewhere, new devices, proxies": {far: true, server: func(o *Options) {
		o.NewDevicesPerIP, o.TrustedProxies = 1e-6, []string{"127.0.0.0/8"}
	}},
	"answers from elsewhere, rate, PROXY protocol": {
		far:    true,
		header: "PROXY TCP4 {client} 192.0.2.1 1000 2000\r\n",
		server: func(o *Options) { o.RatePerIP, o.RateBurst, o.ProxyProtocol = 1e-6, 3, true },
	},
	"PROXY protocol": {
		header: "PROXY TCP4 {client} 192.0.2.1 1000 2000\r\n",
		server: func(o *Options) { o.RatePerIP, o.RateBurst, o.ProxyProtocol = 1e-6, 4, true },
	},
	"restart": {engine: engine.Options{SeqPolicy: engine.Restart}},
}

func startTwins(t testing.TB, name string) *twins {
	s := setups[name]
	start := func(loops int) *whole {
		return startWhole(t, wholeOptions{engine: s.engine, far: s.far, server: func(o *Options) {
			o.Loops = loops
			o.ReadTimeout = testwait.Limit // a request in very many parts takes its time
			if s.server != nil {
				s.server(o)
			}
		}})
	}
	tw := &twins{
		loops: start(1), none: start(-1), queue: newReceiveQueue(t), header: s.header,
	}
	if name == "full" {
		tw.known = uuid.New()
	}
	return tw
}

// stream is what a client sends behind a heartbeat that has its connection enter the loop.
type stream struct {
	name string
	// text has testUser for the user and testDevice for the device, whose seq is 1000. Both may be
	// replaced by others of the same length.
	text string
	// until is in the last answer when the client has to wait for it before it ends its side.
	until string
}

// exchange is what a client got, and how the connection ended.
type exchange struct {
	answers string
	end     string
}

// run has both servers serve a stream, in pieces that end at the cuts, and compares.
func (tw *twins) run(t testing.TB, s stream, cuts ...int) {
	t.Helper()
	tw.runs++
	user, first := tw.known, seqText(1000)
	if user == uuid.Nil {
		user = uuid.New()
	} else { // the device begins anew
		sent := strconv.FormatUint(1_740_000_000_000+tw.runs*1_000_000, 10)
		first = heartbeatText(with("sent_at_ms", sent))
	}
	own := func(text string) string { return strings.ReplaceAll(text, testUser, user.String()) }
	first = own(first)
	if tw.header != "" {
		client := fmt.Sprintf("10.%d.%d.%d", tw.runs>>16&255, tw.runs>>8&255, tw.runs&255)
		first = strings.ReplaceAll(tw.header, "{client}", client) + first
	}
	text := own(s.text)
	if key := sign(t, testKey, payload("")); strings.Contains(text, key) {
		text = strings.ReplaceAll(text, key, sign(t, testKey, own(payload(""))))
	}
	from := uniqueAddr()
	var parts []string
	at := 0
	for _, cut := range append(slices.Clone(cuts), len(text)) {
		parts = append(parts, text[at:cut])
		at = cut
	}
	with := tw.exchange(t, tw.loops, from, first, parts, s.until)
	without := tw.exchange(t, tw.none, from, first, parts, s.until)
	if len(parts) > 1 && strings.Contains(with.answers, "Connection: close\r\n") {
		// What is sent when the server has closed is answered by a reset. Whether that comes behind
		// the end is a race.
		with.end = without.end
	}
	if len(parts) > 1 { // of a head that is malformed and too large fasthttp says either
		with.answers = eitherHead.Replace(with.answers)
		without.answers = eitherHead.Replace(without.answers)
	}
	if with != without {
		t.Errorf("%s, in %d parts: %.40q\nwith the loop:    %q, %s\nwithout the loop: %q, %s",
			s.name, len(parts), parts, with.answers, with.end, without.answers, without.end)
	}
}

var eitherHead = strings.NewReplacer("431 Request Header Fields Too Large", "400 Bad Request",
	"Content-Length: 64", "Content-Length: 57", "Request header too large", "Malformed request")

// uniqueAddr is an address of this machine that no other connection comes from.
func uniqueAddr() *net.TCPAddr {
	n := lastAddr.Add(1)
	ip := binary.BigEndian.AppendUint32(nil, 127<<24|(1<<16+n)&(1<<24-1))
	return &net.TCPAddr{IP: ip}
}

var lastAddr atomic.Uint32

// date is also what else two servers say differently.
var date = regexp.MustCompile(`(Date|Rollcall-Stream): [^\r]*\r\n`)

// exchange sends a stream to one server, and reads to the end of the connection.
func (tw *twins) exchange(
	t testing.TB, w *whole, from *net.TCPAddr, first string, parts []string, until string,
) (x exchange) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: from}
	nc, err := dialer.Dial("tcp4", w.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := nc.(*net.TCPConn)
	_ = c.SetDeadline(time.Now().Add(testwait.Limit))
	if _, err := io.WriteString(c, first); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	buffer := make([]byte, 64<<10)
	n, err := c.Read(buffer)
	if !bytes.HasPrefix(buffer[:n], []byte("HTTP/1.1 204 ")) ||
		!bytes.HasSuffix(buffer[:n], []byte("\r\n\r\n")) {
		t.Fatalf("the first heartbeat: %q, %v", buffer[:n], err)
	}
	for i, part := range parts {
		if _, err := io.WriteString(c, part); err != nil {
			break // the end says why
		}
		if i < len(parts)-1 {
			tw.queue.await(t, c)
		}
	}
	ended := false
	for {
		if !ended && (until == "" || bytes.Contains(got.Bytes(), []byte(until))) {
			ended = true
			_ = c.CloseWrite()
		}
		n, err := c.Read(buffer)
		got.Write(buffer[:n])
		switch {
		case err == nil:
			continue
		case err == io.EOF:
			x.end = "in order"
		case errors.Is(err, syscall.ECONNRESET):
			x.end = "by a reset"
		default:
			x.end = err.Error()
		}
		break
	}
	x.answers = date.ReplaceAllString(got.String(), "")
	return x
}

// entered checks that the streams met the loop: a comparison of a server with itself proves
// nothing.
func (tw *twins) entered(t testing.TB) {
	t.Helper()
	if s := tw.loops.conns.Stats(); s.Suspended < tw.runs || s.Plain < tw.runs/2 {
		t.Errorf("of %d connections %d entered the loop, which served %d heartbeats", tw.runs,
			s.Suspended, s.Plain)
	}
	if s := tw.none.conns.Stats(); s.Plain > 0 {
		t.Errorf("%d heartbeats were served by a loop that is not there", s.Plain)
	}
	for _, w := range []*whole{tw.loops, tw.none} {
		testwait.Until(t, "all connections are off the counts", func() bool {
			return w.conns.Stats().Open == 0
		})
	}
}

// The pieces of which streams are made. Each is a request, or what a client sends in its place.

func otherDevice(n int) string {
	device := fmt.Sprintf("aaaaaaaa-bbbb-4ccc-8ddd-%012d", n)
	return strings.ReplaceAll(validBody, testDevice, device)
}

func packed(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(body))
	_ = w.Close()
	return b.String()
}

func chunked(body string) string {
	return fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 7, body[:7], len(body)-7, body[7:])
}

// changed is a heartbeat with this seq and the value of a field replaced.
func changed(seq int, field, value string) string {
	return heartbeatText(numbered(with(field, value), seq))
}

func numbered(body string, seq int) string {
	return strings.Replace(body, `"seq":42`, fmt.Sprintf(`"seq":%d`, seq), 1)
}

// filled is a heartbeat whose body has a size.
func filled(seq, size int) string {
	body := with("seq", strconv.Itoa(seq))
	return heartbeatText(body+strings.Repeat(" ", size-len(body)), testAuth)
}

var (
	post   = "POST " + wire.HeartbeatPath
	pieces = []struct{ name, text string }{
		{"good", seqText(1_000_001)},
		{"good, higher", seqText(1_000_002)},
		{"stale", seqText(7)},
		{"offline", changed(1_000_003, "status", `"offline"`)},
		{"another device", heartbeatText(otherDevice(1))},
		{"a third device", heartbeatText(otherDevice(2))},
		{"a fourth device", heartbeatText(otherDevice(3))},
		{"older, sent later", changed(6, "sent_at_ms", "1739030500000")},
		{"an escape", changed(1_000_004, "source", `"a\u0062\"c"`)},
		{"an escaped name",
			heartbeatText(strings.Replace(validBody, `"seq":42`, `"s\u0065q":1000005`, 1))},
		{"another source", changed(1_000_006, "source", `"other"`)},
		{"unknown fields", heartbeatText(`{"x":{"y":[1,null,"\n"]},` + with("seq", "1000007")[1:])},
		{"a long ttl", changed(1_000_008, "ttl_ms", "90000")},
		{"more headers",
			seqText(1_000_009, testAuth, "User-Agent: x", "Accept: */*", "Cookie: a=b")},
		{"keep-alive", seqText(1_000_010, testAuth, "Connection: keep-alive")},
		{"a scheme in lower case", seqText(1_000_011, "authorization: bearer "+testIngest)},
		{"the older token", seqText(1_000_012, "Authorization: Bearer older")},
		{"another token", seqText(1_000_013, "Authorization: Bearer other")},
		{"no token", seqText(1_000_013, "X: y")},
		{"two tokens", seqText(1_000_013, testAuth, testAuth)},
		{"another scheme", seqText(1_000_013, "Authorization: Basic "+testIngest)},
		{"an origin", seqText(1_000_014, testAuth, "Origin: https://a.example")},
		{"another origin", seqText(1_000_015, testAuth, "Origin: https://b.example")},
		{"a client of a proxy", seqText(1_000_016, testAuth, "X-Forwarded-For: 192.0.2.1")},
		{"another client of a proxy", seqText(1_000_017, testAuth, "Forwarded: for=192.0.2.2")},
		{"a new device behind a proxy",
			heartbeatText(otherDevice(4), testAuth, "X-Forwarded-For: 192.0.2.3")},
		{"a query", text(post+"?a=b", with("seq", "1000018"), testAuth)},
		{"absolute form",
			text("POST http://x"+wire.HeartbeatPath, with("seq", "1000019"), testAuth)},
		{"two slashes", text("POST /"+wire.HeartbeatPath, with("seq", "1000019"), testAuth)},
		{"a slash more", text(post+"/", with("seq", "1000019"), testAuth)},
		{"an escape in the path",
			text("POST /%61pi"+wire.HeartbeatPath[4:], with("seq", "1000019"), testAuth)},
		{"no route", text("POST /nope", "body")},
		{"preflight", text("OPTIONS "+wire.HeartbeatPath, "")},
		{"GET", text("GET "+wire.HeartbeatPath, "")},
		{"HEAD", text("HEAD "+wire.HeartbeatPath, "")},
		{"PUT", text("PUT "+wire.HeartbeatPath, validBody, testAuth)},
		{"a batch",
			batchText(with("seq", "1000020")+"\n"+with("seq", "5")+"\n"+otherDevice(1), ndjson)},
		{"a batch in an array", batchText("["+with("seq", "1000021")+"]", jsonArray)},
		{"a stream refused", text("GET "+wire.StreamPath+"?user_id="+testUser, "")},
		{"expects", seqText(1_000_022, testAuth, "Expect: 100-continue")},
		{"expects, no token", seqText(1_000_022, "Expect: 100-continue")},
		{"expects something else", seqText(1_000_022, testAuth, "Expect: tea")},
		{"closes", seqText(1_000_023, testAuth, "Connection: close")},
		{"HTTP/1.0", strings.Replace(seqText(1_000_024), "HTTP/1.1", "HTTP/1.0", 1)},
		{"HTTP/1.0, keep-alive",
			strings.Replace(seqText(1_000_025, testAuth, "Connection: keep-alive"),
				"HTTP/1.1", "HTTP/1.0", 1)},
		{"chunks",
			text(post, "", testAuth, "Transfer-Encoding: chunked") +
				chunked(with("seq", "1000026"))},
		{"gzip", text(post, packed(with("seq", "1000027")), testAuth, "Content-Encoding: gzip")},
		{"gzip that is none",
			text(post, with("seq", "1000027"), testAuth, "Content-Encoding: gzip")},
		{"another coding", text(post, with("seq", "1000028"), testAuth, "Content-Encoding: br")},
		{"identity", text(post, with("seq", "1000029"), testAuth, "Content-Encoding: identity")},
		{"no length", text(post, "", testAuth)},
		{"length 0", text(post, "", testAuth, "Content-Length: 0")},
		{"a length with zeros",
			strings.Replace(seqText(1_000_030), "Content-Length: ", "Content-Length: 000", 1)},
		{"no JSON", heartbeatText("x")},
		{"an empty object", heartbeatText("{}")},
		{"more behind the object", heartbeatText(with("seq", "1000031") + "x")},
		{"bad UTF-8", heartbeatText(with("source", "\"\xff\""))},
		{"a bad user", heartbeatText(strings.Replace(validBody, testUser, "x", 1))},
		{"an empty line", "\r\n"},
		{"two empty lines", "\r\n\r\n"},
		{"a line feed", "\n"},
		{"the largest body", filled(1_000_032, wire.MaxBodyBytes)},
	}
	// last are pieces behind which no answer comes, or much text.
	last = []struct{ name, text string }{
		{"a body that is too large", filled(1_000_033, wire.MaxBodyBytes+1)},
		{"a negative length",
			strings.Replace(seqText(1_000_034), "Content-Length: ", "Content-Length: -", 1)},
		{"two lengths", seqText(1_000_035, testAuth, "Content-Length: 5")},
		{"line feeds", strings.ReplaceAll(seqText(1_000_036), "\r\n", "\n")},
		{"a line feed at the end of the head",
			strings.Replace(seqText(1_000_036), "\r\n\r\n", "\r\n\n", 1)},
		{"a line that goes on", seqText(1_000_037, testAuth, "X: y", " z")},
		{"a space before a colon", seqText(1_000_037, testAuth, "X : y")},
		{"no host", strings.Replace(seqText(1_000_037), "Host: test\r\n", "", 1)},
		{"HTTP/2.0", strings.Replace(seqText(1_000_037), "HTTP/1.1", "HTTP/2.0", 1)},
		{"129 lines", seqText(1_000_038, testAuth, strings.Repeat("a:\r\n", 125)+"b:")},
		{"a head that is too large",
			seqText(1_000_039, testAuth, "X: "+strings.Repeat("y", 17<<10))},
		{"a head without an end",
			"POST " + wire.HeartbeatPath + " HTTP/1.1\r\nX: " + strings.Repeat("y", 17<<10)},
		{"a TLS handshake", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		{"no HTTP", "\x00\x01\x02\r\n\r\n"},
	}
)

// follow is a stream as the last request.
func follow(t testing.TB) stream {
	return stream{
		name:  "a stream",
		text:  streamText("?user_id="+testUser, sign(t, testKey, payload(""))),
		until: "data: ",
	}
}

// sentinel is answered only if the connection is kept open by what comes before.
var sentinel = text("GET /sentinel", "")

// streamsOf are streams that meet every piece alone and between plain heartbeats.
func streamsOf(t testing.TB) (all []stream) {
	good, better := seqText(2_000_001), seqText(2_000_002)
	for _, p := range pieces {
		all = append(all, stream{name: p.name, text: good + p.text + better + p.text + sentinel})
	}
	for _, p := range last {
		all = append(all, stream{name: p.name, text: good + p.text + better})
	}
	for _, h := range headCases {
		all = append(all,
			stream{name: "head: " + h.name, text: good + headText(h.request) + better})
	}
	for _, c := range testwire.Cases {
		all = append(all, stream{name: "body: " + c.Name, text: heartbeatText(c.Body) + better})
	}
	f := follow(t)
	f.text = good + seqText(3) + f.text
	all = append(all, f)
	many := ""
	for i := range 100 {
		many += seqText(3_000_000 + i/2)
	}
	return append(all, stream{name: "many", text: many})
}

// firstOf are streams that meet every piece while no other one of the connection is on its way:
// what comes behind one that is, is not the loop's.
func firstOf() (all []stream) {
	for _, p := range pieces {
		text := strings.ReplaceAll(p.text, "192.0.2.3", "192.0.2.4") + // which no other run has
			seqText(2_000_003) + sentinel
		all = append(all, stream{name: p.name + ", first", text: text})
	}
	return all
}

// TestLoopAnswersLikeFasthttp: the same bytes, pipelined, cut into two, ended early or sent byte
// for byte, to a server with loops and one without, have the same answers, in the same order, and
// the same end. With ROLLCALL_LOOP_CUTS=1 the cut is at every place; with n at every nth.
func TestLoopAnswersLikeFasthttp(t *testing.T) {
	random := testseed.Rand(t)
	every := testseed.Rounds(t, "ROLLCALL_LOOP_CUTS", 1499, 499)
	for name := range setups {
		t.Run(name, func(t *testing.T) {
			tw, all := startTwins(t, name), streamsOf(t)
			every := every
			if name != "default" {
				all, every = all[:len(pieces)], 2*every
			}
			for _, s := range all {
				tw.run(t, s)
				for at := 1 + random.IntN(every); at < len(s.text); at += every {
					tw.run(t, s, at)
					tw.run(t, stream{name: s.name + ", ended", text: s.text[:at]})
				}
			}
			if setups[name].far {
				for _, s := range firstOf() {
					tw.run(t, s)
				}
			}
			for range max(1, 200/every) {
				s := all[random.IntN(len(all))]
				cuts := make([]int, min(len(s.text), 2000))
				for i := range cuts {
					cuts[i] = i
				}
				tw.run(t, s, cuts...)
			}
			tw.entered(t)
		})
	}
}

// FuzzLoop: any mix of requests and other bytes, cut anywhere, has the same answers with loops as
// without.
func FuzzLoop(f *testing.F) {
	names := slices.Sorted(maps.Keys(setups))
	all := slices.Concat(pieces, last)
	for i := range all {
		f.Add(byte(i), []byte{0, 255, byte(i), 1}, "\r\n", []byte{100, byte(i), 40})
	}
	for i, h := range headCases {
		if i%4 > 0 { // the others are in TestLoopAnswersLikeFasthttp
			continue
		}
		f.Add(byte(i), []byte{0, 255, 1}, headText(h.request), []byte{180, byte(i)})
	}
	for i, c := range testwire.Cases {
		if i%4 > 0 {
			continue
		}
		f.Add(byte(i), []byte{1, 255, 2}, heartbeatText(c.Body), []byte{byte(i), 90})
	}
	twins := make([]*twins, len(names))
	for i, name := range names {
		twins[i] = startTwins(f, name)
	}
	f.Fuzz(func(t *testing.T, kind byte, program []byte, raw string, cuts []byte) {
		if len(raw) > 20<<10 || len(program) > 20 || len(cuts) > 40 {
			return
		}
		text := ""
		for _, p := range program {
			if int(p) < len(all) {
				text += all[p].text
			} else {
				text += raw
			}
		}
		var at []int
		for _, c := range cuts { // each as far behind the one before as it says
			n := int(c)
			if len(at) > 0 {
				n += at[len(at)-1]
			}
			if n < len(text) {
				at = append(at, n)
			}
		}
		twins[int(kind)%len(twins)].run(t, stream{name: "fuzzed", text: text}, at...)
	})
}
