package loadgen

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/testport"
	"rollcall/internal/testseed"
)

// TestMain lets many tests run at a time: they wait for schedules, not for the processor.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// smallRun is a crowd of 4 users with 3 devices and 2 streams each, for a second. The judgement of
// the generator's own lateness is off and MaxWait is long, since these tests run on busy machines;
// a good server needs none of it.
func smallRun(t testing.TB, s *fakeServer) Options {
	return Options{
		Target: s.url, IngestToken: "ingest",
		StreamToken: func(user string, _ time.Duration) (string, error) {
			return "token-" + user, nil
		},
		Users: 4, DevicesPerUser: 3, StreamsPerUser: 2, Rate: 60, TTL: 5 * time.Second,
		Connections: 4,
		Warmup:      200 * time.Millisecond, Duration: 1200 * time.Millisecond,
		MaxWait: 10 * time.Second, MaxLag: time.Minute,
		Seed: testseed.Of(t),
	}
}

// onQuietMachine runs a test that measures time: alone, never under the race detector, and in three
// tries. It is skipped when each wrong report is one that would be invalid by the default of
// Options.MaxLag: the server, beside the generator, was late, too.
func onQuietMachine(t *testing.T, try func() (rep *Report, wrong string)) {
	t.Helper()
	if underRace {
		t.Skip("the race detector makes the server of the tests too slow to measure time with")
	}
	switch failure, busy := inTries(t, 3, try); {
	case failure != "":
		t.Error(failure)
	case busy != "":
		t.Skip(busy)
	}
}

// inTries runs a test until it has gone wrong three times, or so many times in all, because other
// processes may take the time away: a try on a machine that is too busy counts in all only. The
// test returns what is wrong with the report; none of the results is set when one of them was good.
func inTries(
	t *testing.T, most int, try func() (rep *Report, wrong string),
) (failure, busy string) {
	t.Helper()
	for failures := 0; failures < 3 && most > 0; most-- {
		rep, wrong := try()
		if wrong == "" {
			return "", ""
		}
		t.Log(wrong)
		if late := rep.Generator.Lag.P99; late > 10 {
			busy = fmt.Sprintf("the machine is too busy to measure time on: the generator's own "+
				"p99 lag was %.0f ms", late)
		} else {
			failure = wrong
			failures++
		}
	}
	return failure, busy
}

// busyTries is how often a run is tried again that does not measure time, on a busy machine.
const busyTries = 8

// mustJudge fails unless a run finds, in some tries, what it should.
func mustJudge(t *testing.T, try func() (rep *Report, wrong string)) {
	t.Helper()
	if failure, busy := inTries(t, busyTries, try); failure != "" || busy != "" {
		t.Error("all tries went wrong, see above")
	}
}

// mustBeClean fails unless a run of a good server is clean. One of which the generator itself says
// that it was not good enough is tried again, as on a busy machine; what the oracle finds is not.
func mustBeClean(t *testing.T, try func() *Report) *Report {
	t.Helper()
	var rep *Report
	for range busyTries {
		rep = try()
		if rep.Verdict.Valid() || !rep.Verdict.Passed() {
			break
		}
		t.Log(rep.Verdict.Invalid)
	}
	wantClean(t, rep)
	return rep
}

func brief(l *Latency) string {
	return fmt.Sprintf("count %d, p50 %.1f, p90 %.1f, p99 %.1f, max %.1f ms", l.Count, l.P50, l.P90,
		l.P99, l.Max)
}

func mustRun(t *testing.T, o Options) *Report {
	t.Helper()
	rep, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if t.Failed() || testing.Verbose() {
		var b bytes.Buffer
		rep.WriteTable(&b)
		t.Log(b.String())
	}
	return rep
}

// wantClean fails unless the oracle found nothing and looked at something.
func wantClean(t *testing.T, rep *Report) {
	t.Helper()
	if v := &rep.Verdict; !v.Passed() || !v.Valid() {
		t.Fatalf("violations %v, invalid %v\n%s", v.Violations, v.Invalid,
			strings.Join(v.Examples, "\n"))
	}
	if c := rep.Verdict.Checked; c.Acknowledged == 0 || c.Frames == 0 || c.Snapshots == 0 {
		t.Fatalf("nothing was checked: %+v", c)
	}
}

// TestGoodServerPasses runs every feature against a server without faults: nothing may be found.
// Both kinds of sockets. The server sees one heartbeat of a device at a time, and no gap (G3).
func TestGoodServerPasses(t *testing.T) {
	for _, portable := range []bool{false, true} {
		if portable && testing.Short() {
			continue
		}
		for name, change := range map[string]func(*Options){
			"steady":  func(o *Options) {},
			"poisson": func(o *Options) { o.Arrivals = "poisson" },
			"closed":  func(o *Options) { o.Closed, o.Connections, o.Pipeline = true, 2, 2 },
			"skew":    func(o *Options) { o.Skew, o.Users = 1.2, 20 },
			"workers": func(o *Options) { o.Workers, o.Pipeline = 3, 4 },
			"repeats": func(o *Options) { o.RepeatShare = 0.3 },
			"churn":   func(o *Options) { o.Churn = 40 },
			"silent": func(o *Options) {
				o.Scenario, o.SilentShare, o.TTL = "silent", 0.5, 300*time.Millisecond
			},
			"storm": func(o *Options) { o.Scenario = "reconnect-storm" },
			"slow":  func(o *Options) { o.Scenario, o.SlowShare = "slow-readers", 0.5 },
			"spike": func(o *Options) { o.Scenario = "spike" },
			"batch": func(o *Options) {
				o.Batch, o.Rate, o.RepeatShare, o.TTL = 5, 300, 0.1, time.Minute
			},
			"closed batch": func(o *Options) {
				o.Closed, o.Connections, o.Pipeline, o.Batch, o.Users = true, 2, 2, 3, 20
			},
			// many expiries and returns
			"short": func(o *Options) { o.TTL = 100 * time.Millisecond },
		} {
			t.Run(fmt.Sprintf("%s/portable=%t", name, portable), func(t *testing.T) {
				t.Parallel()
				var s *fakeServer
				mustBeClean(t, func() *Report {
					s = startFake(t, fault{})
					o := smallRun(t, s)
					o.portable = portable
					change(&o)
					return mustRun(t, o)
				})
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.overlap > 0 || s.gaps > 0 {
					t.Errorf("%d heartbeats beside one of their device, %d after a gap",
						s.overlap, s.gaps)
				}
			})
		}
	}
}

// TestOracleFindsEachFault shows for each rule a server that breaks it, and that no other rule is
// blamed.
func TestOracleFindsEachFault(t *testing.T) {
	silent := func(o *Options) {
		o.Scenario, o.SilentShare, o.TTL = "silent", 0.5, 300*time.Millisecond
	}
	for _, c := range []struct {
		name   string
		fault  fault
		change func(*Options)
		want   rule
		and    rule // follows from it
	}{
		{"drops the last frames", fault{dropLast: true}, nil, lost, lost},
		{"drops a frame", fault{dropOne: true}, func(o *Options) { o.NoConflation = true },
			skippedFrame, skippedFrame},
		{"doubles frames", fault{double: true}, nil, doubled, doubled},
		{"goes back", fault{back: true}, nil, backwards, backwards},
		{"acknowledges and forgets", fault{forget: true}, nil, lost, lost},
		{"acknowledges and forgets, without streams", fault{forget: true},
			func(o *Options) { o.StreamsPerUser = 0 }, lost, lost},
		{"leaves a device out of snapshots", fault{forgetSome: true},
			func(o *Options) { o.StreamsPerUser = 0 }, lost, lost},
		{"expires twice", fault{expireTwice: true}, silent, expiredTwice, expiredTwice},
		{"expires early", fault{expireEarly: true}, silent, expiredEarly, expiredEarly},
		{"never expires", fault{expireNever: true}, silent, notExpired, notExpired},
		{"revives the dead", fault{revive: true}, silent, backwards, notExpired},
		{"409 for a fresh heartbeat", fault{conflict: true}, nil, unearnedConflict,
			unearnedConflict},
		{"204 for a stale heartbeat", fault{acceptAll: true},
			func(o *Options) { o.RepeatShare, o.StreamsPerUser = 0.5, 0 }, acceptedAgain,
			acceptedAgain},
		{"invents heartbeats", fault{invent: true}, nil, invented, lost},
		{"409 for a fresh heartbeat of a batch", fault{conflict: true},
			func(o *Options) { o.Batch = 4 }, unearnedConflict, unearnedConflict},
		{"204 for a stale line", fault{acceptAll: true},
			func(o *Options) { o.Batch, o.RepeatShare, o.StreamsPerUser = 4, 0.5, 0 },
			acceptedAgain, acceptedAgain},
		{"acknowledges batches and forgets", fault{forget: true},
			func(o *Options) { o.Batch, o.StreamsPerUser = 4, 0 }, lost, lost},
		{"counts lines that were not sent", fault{miscount: true},
			func(o *Options) { o.Batch, o.StreamsPerUser = 4, 0 }, brokenProtocol, brokenProtocol},
		{"writes frames in its own way", fault{spaces: true}, nil, brokenProtocol, lost},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mustJudge(t, func() (*Report, string) {
				o := smallRun(t, startFake(t, c.fault))
				if c.want == lost || c.want == notExpired || c.and == lost {
					o.MaxWait = 2 * time.Second // that much is waited for what does not come
				}
				if c.change != nil {
					c.change(&o)
				}
				rep := mustRun(t, o)
				return rep, misjudged(rep, c.want, c.and)
			})
		})
	}
}

// misjudged returns "" when a run found that a rule was broken, and no rule but those that follow
// from it.
func misjudged(rep *Report, want rule, and ...rule) string {
	v := rep.Verdict
	if v.Violations[ruleNames[want]] == 0 || len(v.Examples) == 0 {
		return fmt.Sprintf("%s was not found: %v, checked %+v", ruleNames[want], v.Violations,
			v.Checked)
	}
	for name := range v.Violations {
		blamed := name == ruleNames[want]
		for _, r := range and {
			blamed = blamed || name == ruleNames[r]
		}
		if !blamed {
			return fmt.Sprintf("%s was blamed too: %v\n%s", name, v.Violations,
				strings.Join(v.Examples, "\n"))
		}
	}
	return ""
}

// TestSkippedFramesAreCountedApart: without --no-conflation a gap is the server's right.
func TestSkippedFramesAreCountedApart(t *testing.T) {
	t.Parallel()
	o := smallRun(t, startFake(t, fault{dropOne: true}))
	o.Warmup, o.Duration = time.Millisecond, 2*time.Second // so that all is counted as measured
	rep := mustRun(t, o)
	wantClean(t, rep)
	if rep.Counts["conflated"] == 0 {
		t.Fatal("no conflation was counted")
	}
}

// TestResendsAreForgiven: a 409 for a heartbeat whose answer was lost means that it was accepted,
// and a 503 that it was not (G4).
func TestResendsAreForgiven(t *testing.T) {
	for name, batch := range map[string]int{"single": 1, "batch": 6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := smallRun(t, startFake(t, fault{cutEvery: 7 * batch, busy: 5}))
			o.Duration, o.Batch = 2*time.Second, batch
			rep := mustRun(t, o)
			wantClean(t, rep)
			for _, name := range []string{"conflicts", "unavailable", "cut", "retries"} {
				if rep.Counts[name] == 0 {
					t.Errorf("no %s: %v", name, rep.Counts)
				}
			}
		})
	}
}

// TestStallShows is the point of an open loop: a server that stalls for a second under a constant
// rate delays everything that was due in that second, and the percentiles must say so (G1, G2).
func TestStallShows(t *testing.T) {
	onQuietMachine(t, func() (*Report, string) {
		rep := stalledRun(t)
		l := rep.Latency["answer"]
		// 300 of 1200 heartbeats were due in the stall and waited for the rest of it: the slowest 1
		// % waited 0.96 s and more, a tenth 0.6 s and more, half of them all hardly.
		if l.Count != 1200 || l.Max < 990 || l.Max > 1500 || l.P99 < 900 || l.P90 < 500 ||
			l.P90 > 900 || l.P50 > 100 {
			return rep, "a stall of one second shows as " + brief(l)
		}
		return rep, ""
	})
}

func stalledRun(t *testing.T) *Report {
	const stall = time.Second
	var once sync.Once
	var until time.Time
	var mu sync.Mutex
	s := startFake(t, fault{gate: func(served int) {
		if served < 500 {
			return
		}
		mu.Lock()
		once.Do(func() { until = time.Now().Add(stall) })
		left := time.Until(until)
		mu.Unlock()
		if left > 0 {
			<-time.After(left)
		}
	}})
	o := smallRun(t, s)
	o.Users, o.StreamsPerUser, o.Rate, o.Connections = 100, 0, 300, 8
	o.Duration, o.TTL = 4*time.Second, time.Minute
	rep := mustRun(t, o)
	wantClean(t, rep)
	return rep
}

// TestClosedLoopHidesIt documents why --closed says nothing about latency: the same stall is a
// handful of samples.
func TestClosedLoopHidesIt(t *testing.T) {
	t.Parallel()
	var once sync.Once
	gate := make(chan struct{})
	s := startFake(t, fault{gate: func(served int) {
		if served >= 200 {
			once.Do(func() { time.AfterFunc(time.Second, func() { close(gate) }) })
			<-gate
		}
	}})
	o := smallRun(t, s)
	o.Closed, o.StreamsPerUser, o.Connections, o.TTL, o.Duration = true, 0, 4, time.Minute,
		2*time.Second
	rep := mustRun(t, o)
	wantClean(t, rep)
	if l := rep.Latency["answer"]; l.P90 > 500 {
		t.Error(brief(l))
	}
}

// TestKnownDelayIsMeasured: an injected delay comes out as it went in.
func TestKnownDelayIsMeasured(t *testing.T) {
	const delay = 80 * time.Millisecond
	onQuietMachine(t, func() (*Report, string) {
		o := smallRun(t, startFake(t, fault{delay: delay}))
		o.Rate, o.Connections, o.Users = 100, 64, 40
		rep := mustRun(t, o)
		wantClean(t, rep)
		for _, key := range []string{"answer", "frame"} {
			if l := rep.Latency[key]; l.Count == 0 || l.P50 < 80 || l.P50 > 90 {
				return rep, "a delay of 80 ms shows in " + key + " as " + brief(l)
			}
		}
		return rep, ""
	})
}

// TestUnansweredHeartbeatsCount: what the server never answers is not left out of the percentiles
// (G2).
func TestUnansweredHeartbeatsCount(t *testing.T) {
	t.Parallel()
	block := make(chan struct{})
	s := startFake(t, fault{gate: func(served int) {
		if served > 20 {
			<-block
		}
	}})
	t.Cleanup(func() { close(block) })
	o := smallRun(t, s)
	o.StreamsPerUser, o.NoVerify, o.MaxWait = 0, true, time.Second
	rep := mustRun(t, o)
	if rep.Counts["accepted"] > 25 || rep.Latency["answer"].Count != rep.Counts["offered"] ||
		rep.Latency["answer"].P90 < 1000 {
		t.Errorf("%v %s", rep.Counts, brief(rep.Latency["answer"]))
	}
}

// TestLateGeneratorIsInvalid: no lag is below a nanosecond (G6).
func TestLateGeneratorIsInvalid(t *testing.T) {
	t.Parallel()
	o := smallRun(t, startFake(t, fault{}))
	o.MaxLag = 1
	if rep := mustRun(t, o); rep.Verdict.Valid() || !rep.Verdict.Passed() {
		t.Errorf("%+v", rep.Verdict)
	}
}

// TestRestartIsSurvived restarts the listener under the run; the server's memory stays.
func TestRestartIsSurvived(t *testing.T) {
	t.Parallel()
	s := startFake(t, fault{})
	addr := testport.Address(t)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	go server.Serve(ln)
	o := smallRun(t, s)
	o.Target, o.Scenario = "http://"+addr, "restart"
	// the outage is in its middle: on a busy machine, too, with streams up before and cut within it
	o.Duration = 4 * time.Second
	o.Restart = func() error {
		server.Close()
		<-time.After(300 * time.Millisecond) // the outage
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		server = &http.Server{Handler: s}
		go server.Serve(ln)
		return nil
	}
	rep := mustRun(t, o)
	server.Close()
	wantClean(t, rep)
	if rep.Outage == nil || rep.Counts["streams_ended"] == 0 {
		t.Errorf("outage %v, counts %v", rep.Outage, rep.Counts)
	}
}

// TestNodeLossIsSurvived ends one of two listeners under the run, with the connections of half of
// the heartbeats and streams: the others go on, and the streams that were cut come back there.
func TestNodeLossIsSurvived(t *testing.T) {
	t.Parallel()
	for name, cursors := range map[string]bool{"streams": false, "lists": true} {
		t.Run(name, func(t *testing.T) {
			s := startFake(t, fault{})
			node := httptest.NewServer(s)
			t.Cleanup(func() {
				node.CloseClientConnections()
				node.Close()
			})
			o := smallRun(t, s)
			if cursors {
				o = listRun(t, s)
			}
			o.Target, o.Scenario = node.URL+","+s.url, "node-loss"
			o.Duration = 4 * time.Second
			o.Restart = func() error {
				node.Listener.Close()
				node.CloseClientConnections()
				return nil
			}
			rep := mustRun(t, o)
			wantClean(t, rep)
			if rep.Counts["streams_ended"] == 0 || rep.Counts["connect_failures"] == 0 {
				t.Errorf("nothing was lost: %v", rep.Counts)
			}
		})
	}
}

// TestGapOfSeveralNodes: a heartbeat that is refused at first is the outage, though others are
// accepted meanwhile.
func TestGapOfSeveralNodes(t *testing.T) {
	t.Parallel()
	s := startFake(t, fault{busy: 5})
	o := smallRun(t, s)
	o.Target = s.url + "," + s.url
	rep := mustRun(t, o)
	wantClean(t, rep)
	const pause = 0.08 // at least, before a refused one is sent again
	if rep.Outage == nil || rep.Outage.Seconds < pause {
		t.Errorf("outage %+v, counts %v", rep.Outage, rep.Counts)
	}
}

func TestRestartThatDidNotHappenIsInvalid(t *testing.T) {
	t.Parallel()
	o := smallRun(t, startFake(t, fault{}))
	o.Scenario = "restart"
	if rep := mustRun(t, o); rep.Verdict.Valid() {
		t.Error("valid")
	}
}

// TestRampFindsTheKnee: a server that answers one heartbeat at a time, 5 ms each, takes 200 a
// second.
func TestRampFindsTheKnee(t *testing.T) {
	onQuietMachine(t, func() (*Report, string) {
		rep := rampedRun(t)
		if k := rep.Knee; k == nil || !k.Reached || k.Offered < 100 || k.Offered > 210 ||
			rep.Verdict.Early == "" {
			return rep, fmt.Sprintf("knee %+v, early %q", rep.Knee, rep.Verdict.Early)
		}
		return rep, ""
	})
}

func rampedRun(t *testing.T) *Report {
	turn := make(chan struct{}, 1)
	s := startFake(t, fault{gate: func(int) {
		turn <- struct{}{}
		<-time.After(5 * time.Millisecond)
		<-turn
	}})
	o := smallRun(t, s)
	o.Scenario, o.Rate, o.RampTo, o.StreamsPerUser, o.Duration = "ramp", 40, 1000, 0,
		6500*time.Millisecond
	o.TTL, o.Users = time.Minute, 100
	rep := mustRun(t, o)
	wantClean(t, rep)
	return rep
}

// TestWrongTokenEndsTheRun: no report is better than one about refusals.
func TestWrongTokenEndsTheRun(t *testing.T) {
	t.Parallel()
	o := smallRun(t, startFake(t, fault{}))
	o.IngestToken = "wrong"
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "401") {
		t.Error(err)
	}
	o = smallRun(t, startFake(t, fault{}))
	o.StreamToken = func(string, time.Duration) (string, error) { return "wrong", nil }
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "401") {
		t.Error(err)
	}
}

func TestNoServerEndsTheRun(t *testing.T) {
	t.Parallel()
	// A port that no other test is ever given.
	o := smallRun(t, &fakeServer{url: "http://127.0.0.1:1"})
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// TestInterruptedRunIsJudged: Ctrl-C ends the load, not the report.
func TestInterruptedRunIsJudged(t *testing.T) {
	t.Parallel()
	o := smallRun(t, startFake(t, fault{}))
	o.Duration = time.Hour
	o.Interval, o.Rate = 0, 60
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(p Progress) {
		if p.Stage == "steady" && p.Seconds > 0.5 {
			cancel()
		}
	}
	rep, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	wantClean(t, rep)
	if rep.Verdict.Early == "" || rep.Seconds > 600 {
		t.Errorf("%q after %v", rep.Verdict.Early, rep.Seconds)
	}
}

// TestSourcesAreUsed: connections leave from the addresses that were asked for.
func TestSourcesAreUsed(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := map[string]bool{}
	s := startFake(t, fault{answer: func(_ http.ResponseWriter, r *http.Request) bool {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		defer mu.Unlock()
		from[host] = true
		return false
	}})
	o := smallRun(t, s)
	o.Sources = 3
	if ln, err := net.Listen("tcp", "127.0.1.1:0"); err != nil {
		t.Skip("this system has one loopback address: ", err)
	} else {
		ln.Close()
	}
	wantClean(t, mustRun(t, o))
	mu.Lock()
	defer mu.Unlock()
	for i := range 3 {
		if !from[o.source(i).String()] {
			t.Errorf("nothing came from %v: %v", o.source(i), from)
		}
	}
}

// TestWorkersLeaveListsTheirUsers: on a machine of many processors, too, small lists can be drawn.
func TestWorkersLeaveListsTheirUsers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	for users, want := range map[int]int{4: 1, 11: 3, 1000: 16} {
		o := Options{Target: "http://127.0.0.1:1", IngestToken: "x", Users: users, Lists: 2, ListSize: 3,
			StreamToken: func(string, time.Duration) (string, error) { return "", nil },
			ListToken:   testListToken}
		if o, err := o.withDefaults(); err != nil || o.Workers != want {
			t.Errorf("%d users: %d workers, want %d: %v", users, o.Workers, want, err)
		}
	}
}

func TestOptionsReportEveryProblem(t *testing.T) {
	_, err := Options{Target: "https://example.com", SilentShare: 2, Arrivals: "never",
		TTL: time.Microsecond}.withDefaults()
	for _, want := range []string{"http://HOST:PORT", "SilentShare", "Arrivals", "TTL",
		"IngestToken"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not mention %q", err, want)
		}
	}
	_, err = Options{Workers: -1, KneeP99: -1, SlowBytes: -1, Timeout: -1, MaxWait: -1, MaxLag: -1,
		Grace: -1, VerifyUsers: -1}.withDefaults()
	for _, want := range []string{"Workers", "KneeP99", "SlowBytes", "Timeout", "MaxWait", "MaxLag",
		"Grace", "VerifyUsers"} {
		if err == nil || !strings.Contains(err.Error(), "option "+want+" is -1") {
			t.Errorf("%v: does not refuse a negative %q", err, want)
		}
	}
	_, err = Options{Lists: 1, Users: 10, ListView: "x", ListAuth: "x", FlipShare: -1, FreshShare: 2,
		ListLinger: -1, ListTokenTTL: -1, ListSkew: -1, ListPopulation: 11}.withDefaults()
	for _, want := range []string{"ListSize is 100", "ListView", "ListAuth", "FlipShare",
		"FreshShare", "ListLinger", "ListTokenTTL", "ListSkew", "ListPopulation", "ListToken"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not mention %q", err, want)
		}
	}
	if _, err := (Options{Scenario: "x"}).withDefaults(); err == nil ||
		!strings.Contains(err.Error(), "reconnect-storm") {
		t.Errorf("%v: does not name the scenarios", err)
	}
}
