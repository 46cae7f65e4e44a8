package client

import (
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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// heartbeats is the server's side of these tests: it keeps the seq rule and remembers what came
// when. fault, if set, may answer in its place; 0 is the rule's own answer.
type heartbeats struct {
	t     *testing.T
	fault func(w http.ResponseWriter, h heartbeat) (status int)

	mu   sync.Mutex
	got  []received // guarded by mu
	last uint64     // guarded by mu; accepted
	told Status     // guarded by mu; of the last accepted
}

type received struct {
	at     time.Time
	token  string
	body   string
	beat   heartbeat
	status int // answered; 0: not yet, or never
}

func (s *heartbeats) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var h heartbeat
	if err != nil || r.Method != "POST" || r.URL.Path != heartbeatPath ||
		json.Unmarshal(body, &h) != nil {
		s.t.Errorf("%s %s %q %v", r.Method, r.URL, body, err)
	}
	s.mu.Lock()
	i := len(s.got)
	s.got = append(s.got, received{time.Now(), r.Header.Get("Authorization"), string(body), h, 0})
	s.mu.Unlock()
	status := 0
	if s.fault != nil {
		status = s.fault(w, h)
	}
	if status == 0 {
		status = s.apply(h)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got[i].status = status
	w.WriteHeader(status)
	switch status {
	case 204:
	case 409:
		fmt.Fprintf(w, `{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":%d}`,
			s.last)
	default:
		fmt.Fprintf(w, `{"error":"unavailable","details":"As the test wants"}`)
	}
}

// apply is the seq rule.
func (s *heartbeats) apply(h heartbeat) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Seq <= s.last {
		return 409
	}
	s.last, s.told = h.Seq, h.Status
	return 204
}

// cut ends the connection without an answer.
func cut(http.ResponseWriter) int { panic(http.ErrAbortHandler) }

func (s *heartbeats) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.got...)
}

// await returns what came once there are n requests, which are answered, but for those that hang.
func (s *heartbeats) await(n int) []received {
	s.t.Helper()
	for deadline := time.Now().Add(time.Hour); len(s.all()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%d requests within an hour, want %d", len(s.all()), n)
		}
	}
	synctest.Wait() // a request is noted before it is answered
	return s.all()
}

// wantSeqs waits for as many requests and compares their seqs.
func (s *heartbeats) wantSeqs(want ...uint64) []received {
	s.t.Helper()
	got := s.await(len(want))
	var seqs []uint64
	for _, r := range got {
		seqs = append(seqs, r.beat.Seq)
	}
	if fmt.Sprint(seqs) != fmt.Sprint(want) {
		s.t.Fatalf("seqs %v, want %v", seqs, want)
	}
	return got
}

func daemonOptions(c *http.Client) DaemonOptions {
	return DaemonOptions{URL: "http://rollcall", Token: StaticToken("ingest"), UserID: user,
		DeviceID: device,
		TTL:      30 * time.Second, Seq: 100, HTTPClient: c}
}

// startDaemon starts one that is closed when the test ends, if the test does not.
func startDaemon(t *testing.T, o DaemonOptions) *Daemon {
	t.Helper()
	d, err := StartDaemon(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		d.Close(ctx)
	})
	return d
}

// TestSchedule: the time between two heartbeats is random (K3).
func TestSchedule(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		began := time.Now()
		d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		time.Sleep(time.Hour)
		got := s.all()
		wantBetween(t, "first heartbeat after", got[0].at.Sub(began), 0, 0)
		var low, high time.Duration = time.Hour, 0
		for i, r := range got {
			if r.status != 204 || r.beat.Seq != uint64(101+i) || r.token != "Bearer ingest" {
				t.Fatalf("request %d: %+v", i, r)
			}
			if i > 0 {
				gap := r.at.Sub(got[i-1].at)
				wantBetween(t, "gap", gap, 7500*time.Millisecond, 10*time.Second)
				low, high = min(low, gap), max(high, gap)
			}
		}
		if high-low < time.Second {
			t.Errorf("all gaps are %v to %v: a fleet that starts together would stay together", low,
				high)
		}
		want := heartbeat{1, user, device, Online, "rollcall-go", began.UnixMilli(), 101, 30000}
		if got[0].beat != want {
			t.Errorf("heartbeat %+v, want %+v", got[0].beat, want)
		}
		if d.Seq() != got[len(got)-1].beat.Seq {
			t.Errorf("Seq() = %d, want %d", d.Seq(), got[len(got)-1].beat.Seq)
		}
	})
}

// TestSeqBeginsAtTheClock: a restart is above all that was sent before, with nothing stored (K2).
func TestSeqBeginsAtTheClock(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		o := daemonOptions(serve(t, s.ServeHTTP))
		o.Seq, o.Interval = 0, 20*time.Millisecond
		for range 5 {
			d := startDaemon(t, o)
			time.Sleep(time.Second)
			if err := d.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range s.await(5) {
			if r.status != 204 {
				t.Fatalf("answered %d to seq %d after a restart", r.status, r.beat.Seq)
			}
		}
	})
}

// TestUnknownOutcome: whatever leaves it open whether a heartbeat was accepted, the same bytes come
// again under the same seq, and the seq goes on by one whether they had been accepted or not (K1).
func TestUnknownOutcome(t *testing.T) {
	never := func(http.ResponseWriter) int { time.Sleep(time.Minute); return 500 }
	for _, row := range []struct {
		name    string
		applied bool
		answer  func(http.ResponseWriter) int
	}{
		{"503, applied", true, func(http.ResponseWriter) int { return 503 }},
		{"503, not applied", false, func(http.ResponseWriter) int { return 503 }},
		{"502 of a proxy, applied", true, func(http.ResponseWriter) int { return 502 }},
		{"408", false, func(http.ResponseWriter) int { return 408 }},
		{"cut, applied", true, cut},
		{"cut, not applied", false, cut},
		{"no answer, applied", true, never},
		{"no answer, not applied", false, never},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &heartbeats{t: t}
				var faults atomic.Int32
				s.fault = func(w http.ResponseWriter, h heartbeat) int {
					if h.Seq != 102 || faults.Add(1) > 2 {
						return 0
					}
					if row.applied {
						s.apply(h)
					}
					return row.answer(w)
				}
				o := daemonOptions(serve(t, s.ServeHTTP))
				var failures atomic.Int32
				o.OnError = func(error) { failures.Add(1) }
				startDaemon(t, o)
				got := s.wantSeqs(101, 102, 102, 102, 103)
				for _, again := range got[2:4] {
					if again.body != got[1].body {
						t.Errorf("sent %s\nand then  %s\nunder the same seq", got[1].body,
							again.body)
					}
				}
				if n := failures.Load(); n != 2 {
					t.Errorf("%d failures reported, want 2", n)
				}
			})
		})
	}
}

// TestResume: a 409 names where to go on, and the daemon does so at once.
func TestResume(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t, last: 5000}
		began := time.Now()
		startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		got := s.wantSeqs(101, 5001, 5002)
		wantBetween(t, "the first accepted heartbeat after", got[1].at.Sub(began), 0, 0)
	})
}

// TestResumeFromItsOwnNumber: a 409 that names the seq of a first try tells of another program's
// heartbeat.
func TestResumeFromItsOwnNumber(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t, last: 101}
		d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		s.wantSeqs(101, 102, 103)
		if d.Seq() < 102 {
			t.Errorf("Seq() = %d", d.Seq())
		}
	})
}

// TestResumeWithoutLastSeq: the original service does not say where to go on; the clock is above
// what any daemon counted.
func TestResumeWithoutLastSeq(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t, last: 5000}
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			s.ServeHTTP(struct{ http.ResponseWriter }{noLastSeq{w}}, r)
		})
		startDaemon(t, daemonOptions(c))
		if got := s.await(2); got[1].status != 204 ||
			got[1].beat.Seq < uint64(got[0].at.UnixMilli()) {
			t.Errorf("second heartbeat %+v", got[1])
		}
	})
}

type noLastSeq struct{ http.ResponseWriter }

func (w noLastSeq) Write(p []byte) (int, error) {
	text, _, found := strings.Cut(string(p), `,"last_seq"`)
	if found {
		text += "}"
	}
	_, err := w.ResponseWriter.Write([]byte(text))
	return len(p), err
}

// TestTwoDaemonsOneDevice: two programs with one device id cost at most some requests more, and do
// not chase each other.
func TestTwoDaemonsOneDevice(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		o := daemonOptions(serve(t, s.ServeHTTP))
		startDaemon(t, o)
		startDaemon(t, o)
		time.Sleep(time.Hour)
		accepted := 0
		for _, r := range s.all() {
			if r.status == 204 {
				accepted++
			}
		}
		if n := len(s.all()); n > 2*accepted+2 || accepted < 700 {
			t.Errorf("%d requests, %d accepted", n, accepted)
		}
	})
}

// TestConflictWithoutEnd: a server that always answers 409 is not asked without pause.
func TestConflictWithoutEnd(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t, fault: func(http.ResponseWriter, heartbeat) int { return 409 }}
		startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		time.Sleep(time.Hour)
		if n := len(s.all()); n > 3000 {
			t.Errorf("%d requests in an hour", n)
		}
	})
}

// TestBackoff: the waits between tries are random up to a bound that doubles up to 10 s, and stay
// below the server's grace (K4).
func TestBackoff(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t, fault: func(http.ResponseWriter, heartbeat) int { return 503 }}
		startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		time.Sleep(time.Hour)
		got, bound := s.all(), 500*time.Millisecond
		var longest time.Duration
		for i := 1; i < len(got); i++ {
			gap := got[i].at.Sub(got[i-1].at)
			wantBetween(t, fmt.Sprintf("wait %d", i), gap, 0, bound)
			longest = max(longest, gap)
			bound = min(2*bound, 10*time.Second)
		}
		if longest < 5*time.Second || len(got) < 300 {
			t.Errorf("%d tries in an hour, longest wait %v", len(got), longest)
		}
	})
}

// TestRetryAfter: the server's wish is the least that is waited, in both of its forms, and a 429
// leaves the seq free (K4).
func TestRetryAfter(t *testing.T) {
	for _, status := range []int{429, 503} {
		for name, header := range map[string]func() string{
			"seconds": func() string { return "60" },
			"date": func() string {
				return time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
			},
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				inFakeTime(t, func(t *testing.T) {
					s := &heartbeats{t: t}
					s.fault = func(w http.ResponseWriter, h heartbeat) int {
						if len(s.all()) > 1 {
							return 0
						}
						w.Header().Set("Retry-After", header())
						return status
					}
					d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
					time.Sleep(time.Second)
					d.SetStatus(Offline) // which does not shorten the wait
					got := s.await(2)
					wantBetween(t, "wait", got[1].at.Sub(got[0].at), 59*time.Second, 61*time.Second)
					if want := map[int]uint64{429: 101,
						503: 102}[status]; got[1].beat.Seq != want ||
						got[1].beat.Status != Offline {
						t.Errorf("then %+v, want the changed status as seq %d", got[1].beat, want)
					}
				})
			})
		}
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Unix(1e9, 0)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "7.5": 0, "soon": 0,
		"99999999999999999999": 0, "1000000": time.Hour,
		now.Add(time.Minute).UTC().Format(http.TimeFormat):     time.Minute,
		now.Add(-time.Minute).UTC().Format(http.TimeFormat):    0,
		now.Add(100 * time.Hour).UTC().Format(http.TimeFormat): time.Hour,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("Retry-After %q: %v, want %v", header, got, want)
		}
	}
}

// TestTokenRotation: a refused token is reported and asked for again, slowly (K5); the seq is not
// used up.
func TestTokenRotation(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		var token atomic.Value
		token.Store("old")
		s.fault = func(http.ResponseWriter, heartbeat) int {
			if all := s.all(); all[len(all)-1].token != "Bearer new" {
				return 401
			}
			return 0
		}
		o := daemonOptions(serve(t, s.ServeHTTP))
		o.Token = func(context.Context) (string, error) { return token.Load().(string), nil }
		reported := make(chan error, 100)
		o.OnError = func(err error) { reported <- err }
		startDaemon(t, o)
		got := s.wantSeqs(101, 101, 101)
		for i := 1; i < 3; i++ {
			wantBetween(t, "wait", got[i].at.Sub(got[i-1].at), 15*time.Second, 30*time.Second)
		}
		refusal := <-reported
		if a := answerOf(refusal); a == nil || a.Status != 401 ||
			!strings.Contains(refusal.Error(), "check what Token returns") {
			t.Errorf("reported %v", refusal)
		}
		token.Store("new")
		if got := s.await(4); got[3].status != 204 || got[3].beat.SentAtMS == got[0].beat.SentAtMS {
			t.Errorf("with the new token: %+v", got[3])
		}
	})
}

// TestTokenFails: nothing is sent without a token, and the seq stays free.
func TestTokenFails(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		o := daemonOptions(serve(t, s.ServeHTTP))
		tries := 0
		o.Token = func(context.Context) (string, error) {
			switch tries++; tries {
			case 1:
				return "", errors.New("no token today")
			case 2:
				return "with\nnewline", nil
			}
			return "ingest", nil
		}
		startDaemon(t, o)
		if got := s.wantSeqs(101); got[0].status != 204 {
			t.Errorf("%+v", got[0])
		}
	})
}

// TestSetStatus: a change is sent at once; an offline device is silent.
func TestSetStatus(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		s.await(1)
		for i, status := range []Status{Offline, Online} {
			changed := time.Now()
			d.SetStatus(status)
			got := s.await(i + 2)
			wantBetween(t, "sent after", got[i+1].at.Sub(changed), 0, 0)
			if got[i+1].beat.Status != status {
				t.Fatalf("sent %+v", got[i+1].beat)
			}
			d.SetStatus(status) // again: nothing new
			if status == Offline {
				time.Sleep(time.Hour)
				if n := len(s.all()); n != i+2 {
					t.Fatalf("%d requests while offline", n-i-2)
				}
			}
		}
	})
}

// TestStatusChangesWhileUnsure: another heartbeat is another seq, or a late arrival of the first
// could undo it (K1).
func TestStatusChangesWhileUnsure(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		s.fault = func(w http.ResponseWriter, h heartbeat) int {
			if h.Seq == 101 {
				return 503
			}
			return 0
		}
		d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		time.Sleep(time.Minute)
		d.SetStatus(Offline)
		time.Sleep(time.Minute)
		got := s.all()
		if last := got[len(got)-1]; last.beat.Seq != 102 || last.beat.Status != Offline ||
			last.status != 204 {
			t.Errorf("last request %+v", last)
		}
	})
}

func TestClose(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &heartbeats{t: t}
		d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
		s.await(1)
		for range 2 {
			if err := d.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		d.SetStatus(Online)
		time.Sleep(time.Hour)
		if got := s.wantSeqs(101, 102); got[1].beat.Status != Offline {
			t.Errorf("the last word is %+v", got[1].beat)
		}
	})
}

// TestCloseInTrouble: Close goes on trying until its context ends, and not longer; a request that
// hangs is given up for it.
func TestCloseInTrouble(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault func(s *heartbeats, w http.ResponseWriter) int
		least time.Duration
		most  time.Duration
		told  Status
	}{
		{"503 twice, then well", func(s *heartbeats, _ http.ResponseWriter) int {
			if len(s.all()) < 4 {
				return 503
			}
			return 0
		}, 0, 20 * time.Second, Offline},
		{"503 for ever", func(*heartbeats, http.ResponseWriter) int { return 503 }, time.Minute,
			time.Minute, ""},
		{"hangs for ever", func(*heartbeats, http.ResponseWriter) int {
			time.Sleep(time.Hour)
			return 503
		}, time.Minute, time.Minute, ""},
		{"401, which waiting does not mend", func(*heartbeats,
			http.ResponseWriter) int {
			return 401
		}, 0, 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &heartbeats{t: t}
				s.fault = func(w http.ResponseWriter, _ heartbeat) int { return row.fault(s, w) }
				d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
				s.await(1)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				err := d.Close(ctx)
				wantBetween(t, "Close took", time.Since(began), row.least, row.most)
				if (err == nil) != (row.told == Offline) {
					t.Errorf("Close: %v", err)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.told != row.told {
					t.Errorf("the server was told %q, want %q", s.told, row.told)
				}
			})
		})
	}
}

// TestRandomFaults: under any mixture of faults a seq stands for one heartbeat (K1), and when the
// faults end the server knows what is so.
func TestRandomFaults(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("ROLLCALL_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("ROLLCALL_SEED=%d", seed)
	for round := range uint64(50) {
		inFakeTime(t, func(t *testing.T) { randomFaults(t, rand.New(rand.NewPCG(seed, round))) })
	}
}

func randomFaults(t *testing.T, rng *rand.Rand) {
	s := &heartbeats{t: t, last: rng.Uint64N(200)}
	var chance sync.Mutex // guards rng and faulty
	faulty := true
	s.fault = func(w http.ResponseWriter, h heartbeat) int {
		chance.Lock()
		kind, late := rng.IntN(8), time.Duration(rng.IntN(20_000))*time.Millisecond
		well := !faulty
		chance.Unlock()
		if well {
			return 0
		}
		switch kind {
		case 0, 1:
			return []int{429, 401, 404, 200}[late%4] // refused, so not applied
		case 2, 3, 4:
			time.Sleep(late) // perhaps until long after the daemon gave up
			s.apply(h)
		}
		switch kind {
		case 2, 5:
			return 503
		case 3, 6:
			return cut(w)
		}
		return 0
	}
	d := startDaemon(t, daemonOptions(serve(t, s.ServeHTTP)))
	status := Online
	for range 20 {
		chance.Lock()
		wait := time.Duration(rng.IntN(60)) * time.Second
		status = []Status{Online, Offline}[rng.IntN(2)]
		chance.Unlock()
		d.SetStatus(status)
		time.Sleep(wait)
	}
	chance.Lock()
	faulty = false
	chance.Unlock()
	time.Sleep(2 * time.Minute)
	s.mu.Lock()
	told := s.told
	s.mu.Unlock()
	if told != status {
		t.Errorf("the server was told %q last, want %q", told, status)
		for _, r := range s.all() {
			t.Logf("%v seq %d %s: %d", r.at.Format(time.TimeOnly), r.beat.Seq, r.beat.Status,
				r.status)
		}
	}
	// Refusals leave the seq free, so only what was unsure before must stay the same.
	unsure := map[uint64]string{}
	for _, r := range s.all() {
		if before, again := unsure[r.beat.Seq]; again && before != r.body {
			t.Errorf("seq %d stood for %s\nand then for %s", r.beat.Seq, before, r.body)
		}
		if r.status == 0 || r.status == 204 || r.status >= 500 {
			unsure[r.beat.Seq] = r.body
		}
	}
}

func TestDaemonOptions(t *testing.T) {
	good := daemonOptions(nil)
	for name, row := range map[string]struct {
		change func(o *DaemonOptions)
		want   string
	}{
		"URL missing": {func(o *DaemonOptions) { o.URL = "" }, "want http://HOST"},
		"URL without a scheme": {func(o *DaemonOptions) { o.URL = "presence.example.com" },
			"want http://HOST"},
		"URL with a query": {func(o *DaemonOptions) { o.URL = "http://x/?a=b" },
			"want http://HOST"},
		"URL not one": {func(o *DaemonOptions) { o.URL = "http://[::1" }, "URL"},
		"no token":    {func(o *DaemonOptions) { o.Token = nil }, "Token is missing"},
		"user in upper case": {func(o *DaemonOptions) { o.UserID = strings.ToUpper(user) },
			"UserID"},
		"device without dashes": {func(o *DaemonOptions) {
			o.DeviceID = strings.ReplaceAll(device, "-", "0")
		}, "DeviceID"},
		"source too long": {func(o *DaemonOptions) { o.Source = strings.Repeat("x", 129) },
			"Source"},
		"no TTL":                {func(o *DaemonOptions) { o.TTL = 0 }, "TTL"},
		"interval over the TTL": {func(o *DaemonOptions) { o.Interval = o.TTL }, "Interval"},
		"negative interval":     {func(o *DaemonOptions) { o.Interval = -1 }, "Interval"},
		"negative timeout":      {func(o *DaemonOptions) { o.Timeout = -1 }, "Timeout"},
		"seq out of range":      {func(o *DaemonOptions) { o.Seq = 1 << 53 }, "Seq"},
	} {
		o := good
		row.change(&o)
		if _, err := StartDaemon(o); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want something about %q", name, err, row.want)
		}
	}
	if _, err := StartDaemon(DaemonOptions{}); err == nil || strings.Count(err.Error(), "\n") < 4 {
		t.Errorf("not every problem is reported: %v", err)
	}
	url, err := (&DaemonOptions{URL: "https://x.example/presence/"}).complete()
	if url != "https://x.example/presence"+heartbeatPath {
		t.Errorf("a base with a path: %s %v", url, err)
	}
}
