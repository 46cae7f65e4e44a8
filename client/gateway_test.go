package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// batchServer is the server's side of these tests: it keeps the seq rule for each device, answers
// as the contract says, and remembers every line. fault, if set, may answer in its place.
type batchServer struct {
	t     *testing.T
	fault func(w http.ResponseWriter, n int, lines []string) (done bool)
	judge func(h heartbeat) *lineError // refuses a line; nil: none

	mu      sync.Mutex
	batches [][]string           // guarded by mu
	at      []time.Time          // guarded by mu
	last    map[string]heartbeat // guarded by mu; the last accepted of each device
	seqs    map[string]string    // guarded by mu; device and seq → the accepted line (K1)
}

func newBatchServer(t *testing.T) *batchServer {
	return &batchServer{t: t, last: map[string]heartbeat{}, seqs: map[string]string{}}
}

func (s *batchServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != "POST" || r.URL.Path != batchPath ||
		r.Header.Get("Content-Type") != "application/x-ndjson" || !bytes.HasSuffix(body, []byte("\n")) {
		s.t.Errorf("%s %s %q %v", r.Method, r.URL, body, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	s.mu.Lock()
	n := len(s.batches)
	s.batches, s.at = append(s.batches, lines), append(s.at, time.Now())
	s.mu.Unlock()
	if s.fault == nil || !s.fault(w, n, lines) {
		s.answer(w, http.StatusOK, s.apply(lines, len(lines)))
	}
}

// apply judges the first upTo lines.
func (s *batchServer) apply(lines []string, upTo int) (errs []lineError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, line := range lines[:upTo] {
		var h heartbeat
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			s.t.Error(err)
		}
		key := h.DeviceID + " " + strconv.FormatUint(h.Seq, 10)
		if before, ok := s.seqs[key]; ok && before != line {
			s.t.Errorf("one seq for two heartbeats:\n%s\n%s", before, line)
		}
		if s.judge != nil {
			if e := s.judge(h); e != nil {
				e.Line = i + 1
				errs = append(errs, *e)
				continue
			}
		}
		if last := s.last[h.DeviceID].Seq; h.Seq <= last {
			errs = append(errs, lineError{Line: i + 1, Status: 409, LastSeq: &last})
			continue
		}
		s.last[h.DeviceID], s.seqs[key] = h, line
	}
	return errs
}

// answer is the contract's, with 100 errors at most, and more members before them.
func (s *batchServer) answer(w http.ResponseWriter, status int, errs []lineError, more ...string) {
	if n := len(errs); n > 100 {
		more, errs = append(more, fmt.Sprintf(`"errors_omitted":%d`, n-100)), errs[:100]
	}
	text, err := json.Marshal(errs)
	if err != nil {
		s.t.Error(err)
	}
	if errs == nil {
		text = []byte("[]")
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{%s,"errors":%s}`, strings.Join(append(more, `"accepted":0`), ","), text)
}

func (s *batchServer) sent() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string(nil), s.batches...)
}

func (s *batchServer) online() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.last {
		if h.Status == Online {
			n++
		}
	}
	return n
}

func gatewayOptions(c *http.Client) GatewayOptions {
	return GatewayOptions{URL: "http://rollcall", Token: StaticToken("ingest"), TTL: 30 * time.Second,
		HTTPClient: c}
}

// told is what a gateway reported.
type told struct {
	mu   sync.Mutex
	errs []error // guarded by mu
}

func (l *told) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *told) all() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.errs...)
}

// startGateway starts one with n devices online, and collects its errors.
func startGateway(t *testing.T, o GatewayOptions, n int) (g *Gateway, errs *told) {
	t.Helper()
	errs = new(told)
	o.OnError = errs.add
	g, err := StartGateway(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close(soon(t)) })
	for i := range n {
		if err := g.Set(user, idOf(i), Online); err != nil {
			t.Fatal(err)
		}
	}
	return g, errs
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// seqsOf are the seqs of a batch.
func seqsOf(t *testing.T, lines []string) (seqs []uint64) {
	for _, line := range lines {
		var h heartbeat
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			t.Error(err)
		}
		seqs = append(seqs, h.Seq)
	}
	return seqs
}

// TestGateway: every device is repeated within its interval, changes go at once, an offline is the
// last word of a device, and Close says it for all.
func TestGateway(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := newBatchServer(t)
		g, errs := startGateway(t, gatewayOptions(serve(t, s.ServeHTTP)), 2500)
		time.Sleep(time.Minute)
		seen := map[string]int{}
		for _, lines := range s.sent() {
			if len(lines) > 1000 {
				t.Errorf("a batch of %d", len(lines))
			}
			for _, line := range lines {
				seen[line[:140]]++ // up to the device
			}
		}
		for device, n := range seen {
			if n < 6 || n > 9 {
				t.Fatalf("%d heartbeats in a minute of %s", n, device)
			}
		}
		if len(seen) != 2500 || s.online() != 2500 || g.Len() != 2500 {
			t.Errorf("%d devices, %d online, %d held", len(seen), s.online(), g.Len())
		}
		if n := len(s.sent()); n > 250 {
			t.Errorf("%d requests", n)
		}
		before := time.Now()
		for _, status := range []Status{Offline, Offline, Online, Offline} {
			if err := g.Set(user, idOf(7), status); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if s.online() != 2499 || g.Len() != 2499 || time.Since(before) > time.Second {
			t.Errorf("%d online, %d held, after %v", s.online(), g.Len(), time.Since(before))
		}
		if err := g.Close(soon(t)); err != nil || s.online() != 0 || g.Len() != 0 {
			t.Errorf("%v, %d online", err, s.online())
		}
		if err := g.Set(user, idOf(7), Online); err != ErrGatewayClosed {
			t.Errorf("after Close: %v", err)
		}
		if got := errs.all(); len(got) > 0 {
			t.Error(got)
		}
	})
}

// TestGatewayFaults: what is sent again after which answer, and under which seqs (K12). The script
// has the answer to the first batch, of 300 devices.
func TestGatewayFaults(t *testing.T) {
	start := uint64(time.UnixMilli(946684800000).UnixMilli())
	type script struct {
		name  string
		fault func(s *batchServer, w http.ResponseWriter, lines []string)
		again int  // lines of the first 300 that come again before their interval is over
		same  bool // with the seqs of the first time
		low   time.Duration
		high  time.Duration
		told  string // of the first error
	}
	for _, row := range []script{
		{"cut after it was applied", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.apply(lines, 300)
			panic(http.ErrAbortHandler)
		}, 300, true, 0, time.Second, "client: batch: "},
		{"cut halfway", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.apply(lines, 150)
			panic(http.ErrAbortHandler)
		}, 300, true, 0, time.Second, "client: batch: "},
		{"503", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.apply(lines, 20)
			w.Header().Set("Retry-After", "2")
			(&connection{w, nil}).refuse(503)
		}, 300, true, 2 * time.Second, 3 * time.Second, "rollcall answered 503"},
		{"429", func(s *batchServer, w http.ResponseWriter, lines []string) {
			w.Header().Set("Retry-After", "2")
			(&connection{w, nil}).refuse(429)
		}, 300, true, 2 * time.Second, 3 * time.Second, "rollcall answered 429"},
		{"no room in the log", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.answer(w, 200, s.apply(lines, 99), `"unavailable_from":100`)
		}, 201, true, 0, time.Second, "rollcall answered 503 Service Unavailable: the log had no room"},
		{"the body was too slow", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.answer(w, 408, s.apply(lines, 99), `"line":100`)
		}, 201, true, 0, time.Second, "rollcall answered 408"},
		{"too many lines", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.answer(w, 413, s.apply(lines, 100), `"line":101`)
		}, 200, true, 0, 0, "rollcall answered 413"},
		{"a page", func(s *batchServer, w http.ResponseWriter, lines []string) {
			fmt.Fprint(w, "<p>")
		}, 300, true, 0, time.Second, "client: batch: not the answer"},
		{"401", func(s *batchServer, w http.ResponseWriter, lines []string) {
			(&connection{w, nil}).refuse(401)
		}, 300, true, 15 * time.Second, 30 * time.Second, "rollcall answered 401"},
		{"others had sent", func(s *batchServer, w http.ResponseWriter, lines []string) {
			s.mu.Lock()
			for _, line := range lines[:200] {
				var h heartbeat
				json.Unmarshal([]byte(line), &h)
				h.Seq += 1000
				s.last[h.DeviceID] = h
			}
			s.mu.Unlock()
			s.answer(w, 200, s.apply(lines, 300))
		}, 400, false, 0, 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := newBatchServer(t)
				s.fault = func(w http.ResponseWriter, n int, lines []string) bool {
					if n == 0 {
						row.fault(s, w, lines)
						return true
					}
					return false
				}
				o := gatewayOptions(serve(t, s.ServeHTTP))
				o.TTL = 5 * time.Minute
				began := time.Now()
				_, errs := startGatewayAt(t, o, 300)
				time.Sleep(35 * time.Second) // less than three quarters of the interval
				again, seqs := 0, map[uint64]bool{}
				for i, lines := range s.sent()[1:] {
					if i == 0 {
						wantBetween(t, "the next batch", s.at[1].Sub(began), row.low, row.high)
					}
					for _, seq := range seqsOf(t, lines) {
						again++
						seqs[seq] = true
					}
				}
				// Where some were taken and the answer was cut, a 409 says so for each.
				if again != row.again {
					t.Errorf("%d lines came again, want %d", again, row.again)
				}
				if same := len(seqs) == 1 && seqs[start+1]; same != row.same {
					t.Errorf("seqs %v, the first was %d", seqs, start+1)
				}
				if s.online() != 300 {
					t.Errorf("%d devices online", s.online())
				}
				got := errs.all()
				if len(got) != min(len(row.told), 1) ||
					row.told != "" && !strings.HasPrefix(got[0].Error(), row.told) {
					t.Errorf("told %v, want %q", got, row.told)
				}
			})
		})
	}
}

// startGatewayAt is startGateway with all devices in the first batch.
func startGatewayAt(t *testing.T, o GatewayOptions, n int) (g *Gateway, errs *told) {
	t.Helper()
	g, errs = startGateway(t, o, 0)
	g.mu.Lock()
	now := time.Now()
	for i := range n {
		m := &member{pair: pair{user, idOf(i)}, want: Online, due: now,
			seq: uint64(now.UnixMilli())}
		g.members[m.pair] = m
		m.place = len(g.queue)
		g.queue = append(g.queue, m)
	}
	g.mu.Unlock()
	g.wake <- struct{}{}
	return g, errs
}

// TestGatewayDeviceRefused: a bad line spoils no other; its device rests and is reported.
func TestGatewayDeviceRefused(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := newBatchServer(t)
		s.judge = func(h heartbeat) *lineError {
			switch h.DeviceID {
			case idOf(1):
				return &lineError{Status: 400, Error: "invalid_payload", Details: "Invalid ttl_ms"}
			case idOf(2):
				return &lineError{Status: 503, Error: "unavailable", Details: "Too many devices"}
			}
			return nil
		}
		g, errs := startGatewayAt(t, gatewayOptions(serve(t, s.ServeHTTP)), 5)
		time.Sleep(time.Minute)
		refused := map[string]int{}
		for _, err := range errs.all() {
			var device *DeviceError
			var status *StatusError
			if !errors.As(err, &device) || !errors.As(err, &status) {
				t.Fatal(err)
			}
			refused[device.DeviceID]++
		}
		if n := refused[idOf(1)]; n < 2 || n > 5 {
			t.Errorf("the invalid one was tried %d times in a minute", n)
		}
		if n := refused[idOf(2)]; n < 6 || n > 13 {
			t.Errorf("the one without a place was tried %d times in a minute", n)
		}
		if s.online() != 3 || len(refused) != 2 {
			t.Errorf("%d online, refused %v", s.online(), refused)
		}
		s.mu.Lock()
		tries := len(s.batches)
		s.mu.Unlock()
		for range 50 { // the caller does not hurry a device that rests
			g.Set(user, idOf(2), Offline)
			g.Set(user, idOf(2), Online)
			synctest.Wait()
		}
		if n := len(s.sent()); n != tries {
			t.Errorf("%d requests more", n-tries)
		}
		g.Set(user, idOf(1), Offline)
		time.Sleep(time.Minute)
		if g.Len() != 4 {
			t.Errorf("%d held: an offline that is refused is not tried again", g.Len())
		}
	})
}

// TestGatewayManyRefusals: an answer lists 100 rejected lines; those behind them are asked again,
// under their seqs.
func TestGatewayManyRefusals(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := newBatchServer(t)
		s.judge = func(h heartbeat) *lineError {
			if strings.HasSuffix(h.DeviceID[:8], "0") {
				return nil
			}
			return &lineError{Status: 429, Error: "rate_limited"}
		}
		_, errs := startGatewayAt(t, gatewayOptions(serve(t, s.ServeHTTP)), 320)
		time.Sleep(4 * time.Second)
		if s.online() != 20 {
			t.Errorf("%d online", s.online())
		}
		var sizes []int
		for _, lines := range s.sent() {
			sizes = append(sizes, len(lines))
		}
		if fmt.Sprint(sizes) != "[320 100 100 13]" {
			t.Errorf("batches of %v", sizes)
		}
		if n := len(errs.all()); n != 300 {
			t.Errorf("%d refusals, want 300", n)
		}
	})
}

// TestGatewayEnds: Close gives up with its context, and after a refusal that another try does not
// change.
func TestGatewayEnds(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		status := 503
		s := newBatchServer(t)
		s.fault = func(w http.ResponseWriter, n int, lines []string) bool {
			(&connection{w, nil}).refuse(status)
			return true
		}
		for _, status = range []int{503, 401} {
			g, _ := startGateway(t, gatewayOptions(serve(t, s.ServeHTTP)), 3)
			time.Sleep(time.Minute)
			began := time.Now()
			err := g.Close(soon(t))
			if err == nil || !strings.Contains(err.Error(), "was not delivered") {
				t.Errorf("%d: %v", status, err)
			}
			limit := map[int]time.Duration{503: time.Minute, 401: time.Second}[status]
			wantBetween(t, "Close takes", time.Since(began), 0, limit)
			if again := g.Close(soon(t)); again != err {
				t.Errorf("the second Close: %v", again)
			}
		}
	})
}

func TestGatewayOptions(t *testing.T) {
	_, err := StartGateway(GatewayOptions{URL: "x", TTL: -1, MaxBatch: -1})
	for _, want := range []string{"want http://HOST", "Token is missing", "TTL -1ns", "MaxBatch"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	o := gatewayOptions(nil)
	o.MaxDevices = 1
	g, err := StartGateway(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer g.Close(ctx)
	for want, set := range map[string]func() error{
		"<nil>":              func() error { return g.Set(user, device, Online) },
		"UUIDs in lowercase": func() error { return g.Set(user, "x", Online) },
	} {
		if err := set(); !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := g.Set(friend, device, Online); err != ErrGatewayFull {
		t.Errorf("one too many: %v", err)
	}
}

// TestGatewayUnderFaults: whatever a network and a server do to batches, a seq stands for one
// heartbeat, and in the end the server shows what the caller wants.
func TestGatewayUnderFaults(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("ROLLCALL_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("ROLLCALL_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	random := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
	inFakeTime(t, func(t *testing.T) {
		s := newBatchServer(t)
		healthy := false
		s.fault = func(w http.ResponseWriter, n int, lines []string) bool {
			mu.Lock()
			ok := healthy
			mu.Unlock()
			if ok {
				return false
			}
			some := random(len(lines) + 1)
			switch random(8) {
			case 0:
				s.apply(lines, some)
				panic(http.ErrAbortHandler)
			case 1:
				s.apply(lines, some)
				(&connection{w, nil}).refuse(503)
			case 2:
				(&connection{w, nil}).refuse(429)
			case 3:
				if some < len(lines) {
					s.answer(w, 200, s.apply(lines, some), fmt.Sprintf(`"unavailable_from":%d`, some+1))
					return true
				}
				return false
			case 4:
				if some < len(lines) {
					s.answer(w, 408, s.apply(lines, some), fmt.Sprintf(`"line":%d`, some+1))
					return true
				}
				return false
			case 5:
				s.apply(lines, len(lines))
				<-time.After(time.Hour) // no answer
			default:
				return false
			}
			return true
		}
		s.judge = func(h heartbeat) *lineError {
			mu.Lock()
			ok := healthy
			mu.Unlock()
			if !ok && random(10) == 0 {
				return &lineError{Status: 429}
			}
			return nil
		}
		o := gatewayOptions(serve(t, s.ServeHTTP))
		o.MaxBatch = 50
		g, _ := startGateway(t, o, 0)
		want := map[string]Status{}
		for range 500 {
			id, status := idOf(random(150)), Online
			if random(3) == 0 {
				status = Offline
			}
			if err := g.Set(user, id, status); err != nil {
				t.Fatal(err)
			}
			want[id] = status
			time.Sleep(time.Duration(random(500)) * time.Millisecond)
		}
		mu.Lock()
		healthy = true
		mu.Unlock()
		time.Sleep(5 * time.Minute)
		online := 0
		s.mu.Lock()
		for id, status := range want {
			if s.last[id].Status != status {
				t.Errorf("device %s: the server shows %q, want %q", id, s.last[id].Status, status)
			}
			if status == Online {
				online++
			}
		}
		s.mu.Unlock()
		if g.Len() != online {
			t.Errorf("%d devices held, want %d", g.Len(), online)
		}
		if err := g.Close(soon(t)); err != nil || s.online() != 0 {
			t.Errorf("%v, %d online", err, s.online())
		}
	})
}
