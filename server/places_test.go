package server

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
)

// begin sends the beginning of a batch and leaves it at that. What is answered goes to answers,
// which has room for it.
func (r *running) begin(t *testing.T, request string, answers chan<- response) net.Conn {
	t.Helper()
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	go func() {
		br := bufio.NewReader(c)
		if _, err := br.Peek(1); err == nil { // else the test ended first
			answers <- readResponse(t, br, "POST")
		}
	}()
	return c
}

// waiting is how many batches wait for more of their bodies.
func (s *places) waiting() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.taken {
		if p.waits.Load() != 0 {
			n++
		}
	}
	return n
}

func (r *running) awaitWaiting(t *testing.T, n int) {
	t.Helper()
	testwait.Until(t, fmt.Sprintf("%d bodies wait", n), func() bool {
		return r.places.waiting() == n
	})
}

// noisy is lines of heartbeats that take some n bytes when they are packed, too.
func noisy(n int) string {
	rng := rand.NewChaCha8([32]byte{})
	var lines strings.Builder
	noise := make([]byte, 6<<10)
	for packed := 0; packed < n; packed += len(noise) {
		_, _ = rng.Read(noise)
		fmt.Fprintf(&lines, "{\"noise\":%q,%s\n", base64.StdEncoding.EncodeToString(noise),
			validBody[1:])
	}
	return lines.String()
}

var codings = []string{"identity", "gzip", "zstd"}

func packedBatch(t *testing.T, coding, body string) string {
	t.Helper()
	if coding != "identity" {
		body = pack(t, coding, body)
	}
	return batchText(body, ndjson, "Content-Encoding: "+coding)
}

// stalledBodies are beginnings of bodies. Those with a length are longer than what fasthttp reads
// before it calls the handler.
func stalledBodies(t *testing.T) (requests []string) {
	for _, coding := range codings {
		request := packedBatch(t, coding, noisy(2*wire.MaxBodyBytes))
		head, body, _ := strings.Cut(packedBatch(t, coding, validBody), "\r\n\r\n")
		head = head[:strings.LastIndex(head, "\r\n")] // Content-Length
		requests = append(requests, request[:len(request)-5],
			fmt.Sprintf("%s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", head, len(body),
				body))
	}
	return requests
}

// TestStalledBodiesHoldNobodyUp: bodies that do not come keep no packed batch from being unpacked,
// and give their places to bodies that come (S6).
func TestStalledBodiesHoldNobodyUp(t *testing.T) {
	const limit = 90
	r := start(t, func(o *Options, _ *fakePresence) { o.maxBodies, o.bodyGrace = limit, 1 })
	requests := stalledBodies(t)
	answers := make(chan response, limit)
	for n := range limit {
		r.begin(t, requests[n%len(requests)], answers)
	}
	r.awaitWaiting(t, limit)
	for _, coding := range codings {
		r.send(t, packedBatch(t, coding, validBody)).batch(t, 200)
	}
	slow := testwait.For(t, "the answer to a slow body", answers)
	if b := slow.batch(t, 408); b.Details != reply.BodyTooSlow.Details() || !slow.closes {
		t.Errorf("%+v, closes: %v", b, slow.closes)
	}
	r.awaitWaiting(t, limit-1) // the first one needed a place, and left it to the others
}

// TestSlowBodyIsCommitted: what a batch has applied is committed while its sender keeps it waiting
// for the rest, so that streams see it.
func TestSlowBodyIsCommitted(t *testing.T) {
	r := start(t, nil)
	for n, request := range stalledBodies(t) {
		before := r.presence.kicks.Load()
		r.begin(t, request, make(chan response, 1))
		testwait.Until(t, fmt.Sprintf("the log commits what has come of body %d", n), func() bool {
			return r.presence.kicks.Load() > before
		})
	}
}

// TestTooManyBatches: when all places are taken by bodies that come fast enough, one more is
// refused, until one has ended (S6).
func TestTooManyBatches(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.maxBodies, o.bodyGrace = 2, time.Hour })
	request := batchText(noisy(2*wire.MaxBodyBytes), ndjson)
	cut := len(request) - 5
	answers := make(chan response, 2)
	first, second := r.begin(t, request[:cut], answers), r.begin(t, request[:cut], answers)
	r.awaitWaiting(t, 2)
	got := r.send(t, request)
	got.check(t, 503, errorBody("unavailable", "Too many batches at once"))
	if got.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
	}
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	for _, c := range []net.Conn{first, second} {
		_, _ = io.WriteString(c, request[cut:])
	}
	for range 2 {
		testwait.For(t, "an answer", answers).batch(t, 200)
	}
	r.send(t, request).batch(t, 200)
	if n := r.places.count(); n != 0 {
		t.Errorf("%d places are taken at rest", n)
	}
}

// TestTurns: so many batches are worked on at once, one processor is left, and a batch that waits
// for its body, or a single heartbeat, needs no turn.
func TestTurns(t *testing.T) {
	turns := max(1, runtime.GOMAXPROCS(0)-1)
	working, goOn := make(chan struct{}), make(chan struct{})
	r := start(t, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(hb *engine.Heartbeat) engine.Result {
			if hb.Seq != 42 {
				working <- struct{}{}
				<-goOn
			}
			return engine.Result{}
		}
	})
	request := batchText(noisy(2*wire.MaxBodyBytes), ndjson)
	answers := make(chan response, 3*turns+1)
	stalled := r.begin(t, request[:len(request)-5], answers)
	r.awaitWaiting(t, 1)
	for range 3 * turns {
		r.begin(t, batchText(with("seq", "7"), ndjson), answers)
	}
	for range turns {
		testwait.For(t, "a turn", working)
	}
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	select {
	case <-working:
		t.Errorf("more than %d batches are worked on", turns)
	default:
	}
	go func() {
		for range 2 * turns {
			<-working
		}
	}()
	close(goOn)
	for range 3 * turns {
		testwait.For(t, "an answer", answers).batch(t, 200)
	}
	_, _ = io.WriteString(stalled, request[len(request)-5:])
	testwait.For(t, "an answer", answers).batch(t, 200)
}

// TestWindowIsTakenFromAStalledBody: a zstd body that came in part and then stalls gives its window
// to the next one.
func TestWindowIsTakenFromAStalledBody(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.bodyGrace = 1 })
	request := packedBatch(t, "zstd", noisy(3*packedBytes))
	answers := make(chan response, maxWindows)
	for range maxWindows {
		r.begin(t, request[:len(request)-5], answers)
	}
	r.awaitWaiting(t, maxWindows)
	r.send(t, packedBatch(t, "zstd", validBody)).batch(t, 200)
}

// TestUnpackRate: an address whose packed bodies unpacked to more than their rate waits until it
// is even; bodies that are not packed do not count.
func TestUnpackRate(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.UnpackRatePerIP = 1 << 10 })
	full := pack(t, "gzip", strings.Repeat(strings.Repeat(" ", 1<<14-1)+"\n", wire.MaxBatchBytes>>14))
	packed := []string{
		batchText(full, ndjson, "Content-Encoding: gzip"),
		batchText(pack(t, "zstd", validBody), ndjson, "Content-Encoding: zstd"),
		heartbeatText(pack(t, "gzip", validBody), testAuth, "Content-Encoding: gzip"),
	}
	r.send(t, packed[0]).batch(t, 200)
	r.send(t, packed[0]).batch(t, 200) // what is left is enough to begin, and leads into debt
	for _, request := range packed {
		got := r.send(t, request)
		got.check(t, 429, errorBody("rate_limited", "Too many unpacked bytes from this address"))
		if s := got.header.Get("Retry-After"); len(s) != 4 || s > "4100" { // 4 MiB at 1 KiB/s
			t.Errorf("Retry-After = %q", s)
		}
	}
	r.send(t, batchText(validBody, ndjson)).batch(t, 200)
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
}

// TestStockLetsGo: what a burst needed is kept while it is used, and let go behind it.
func TestStockLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stock[int]{most: 10, make: func() *int { return new(int) }}
		use := func(n int) {
			var all []*int
			for range n {
				all = append(all, s.get())
			}
			for _, x := range all {
				s.put(x)
			}
		}
		held := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.free)
		}
		use(20)
		if held() != 10 {
			t.Errorf("%d are kept, want 10", held())
		}
		for range 4 {
			time.Sleep(stockTrim / 2)
			use(3)
		}
		time.Sleep(time.Nanosecond)
		if held() != 3 {
			t.Errorf("%d are kept while 3 are used", held())
		}
		time.Sleep(3 * stockTrim)
		if held() != 0 || s.trimming {
			t.Errorf("%d are kept at rest", held())
		}
	})
}
