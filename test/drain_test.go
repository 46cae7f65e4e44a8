package test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

// TestDrain: what a deploy looks like from outside. From SIGTERM on /readyz says no and new streams
// are turned away, an EventSource in the form that it understands; each open stream is told when to
// come back, which is not while the drain goes on, and ends cleanly; a heartbeat that was half sent
// is answered; the exit status is 0. That the ends are spread is TestDrainSpreadsEnds of package
// broadcast, where time can be told.
func TestDrain(t *testing.T) { withAndWithoutLoops(t, drain) }

func drain(t *testing.T, loops string) {
	const (
		streams = 40
		over    = 3 * time.Second
		random  = 10 * time.Second // the longest random part of retry
	)
	r := startServer(t, loops, "--drain-timeout="+over.String())
	user := uuid.NewString()
	var all sync.WaitGroup
	type told struct {
		at    time.Time
		retry int
	}
	retries := make(chan told, streams)
	for range streams {
		s := r.follow(user)
		all.Go(func() {
			text, err := io.ReadAll(s.body)
			s.conn.Close()
			retry, err2 := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(string(text), "retry: "), "\n\n"))
			if err := errors.Join(err, err2); err != nil {
				t.Errorf("a stream ended with %q: %v", text, err)
			}
			retries <- told{time.Now(), retry}
		})
	}
	// its client does not hang up: until we do, or for some seconds, the server is not done
	stays := r.follow(user)
	busy := r.dial()
	defer busy.Close()
	answers := bufio.NewReader(busy)
	for range 2 { // a loop serves the second one, and has the half
		io.WriteString(busy, request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken)))
		expect(t, readAnswer(t, answers, false), 204, "")
	}
	r.wantLooped(loops)
	half := request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken))
	io.WriteString(busy, half[:len(half)-20])

	began := time.Now()
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.untilReadyz(http.StatusServiceUnavailable, "draining")
	authorization := bearer(tokenFor(user, time.Hour))
	a := r.send(request("GET", streamPath+"?user_id="+user, "", authorization))
	expect(t, a, 503, errorBody("unavailable", "Server is about to stop"))
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 3 {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
	late := r.followRaw(request("GET", streamPath+"?user_id="+user, "", authorization,
		"Accept: text/event-stream"))
	text, err := io.ReadAll(late.body)
	if late.head.status != 200 || err != nil || !strings.HasPrefix(string(text), "retry: ") ||
		!strings.HasSuffix(string(text), "\n\n") || strings.Count(string(text), "\n") != 2 {
		t.Errorf("an EventSource is answered %d %q, %v", late.head.status, text, err)
	}
	r.mustBeat(newBeat()) // daemons are served to the end
	io.WriteString(busy, half[len(half)-20:])
	expect(t, readAnswer(t, answers, false), 204, "")
	stays.conn.Close()

	all.Wait()
	close(retries)
	different := make(map[int]bool)
	for one := range retries {
		different[one.retry] = true
		// A second hence is the clients' to hang up, and one is the least of the random part. As
		// much is left for the server's clock, which ticks.
		back := one.at.Add(time.Duration(one.retry) * time.Millisecond)
		if back.Before(began.Add(over + time.Second)) {
			t.Errorf("%v after the drain began a stream was told retry: %d", one.at.Sub(began),
				one.retry)
		}
		longest := over + 2*time.Second + random + testwait.Limit
		if one.retry > int(longest.Milliseconds()) {
			t.Errorf("retry: %d", one.retry)
		}
	}
	if len(different) < streams/2 {
		t.Errorf("%d streams were told only %d different times", streams, len(different))
	}
	<-r.proc.Exited
	if r.proc.Err != nil {
		t.Errorf("%v\n%s", r.proc.Err, r.logs())
	}
}

// TestEventSourceOverALimit: it is told when to come back, and it and all others are counted as
// refused. With --stream-refusal=status it gets the status, too.
func TestEventSourceOverALimit(t *testing.T) {
	for _, refusal := range []string{"event", "status"} {
		r := startServer(t, "--max-streams-per-user=1", "--stream-refusal="+refusal)
		user := uuid.NewString()
		r.follow(user)
		for accept, want := range map[string]int{
			"Accept: */*":                              503,
			"Accept: text/event-stream":                200,
			"Accept: text/html, text/event-stream;q=1": 200,
			"Accept: text/event-stream;q=0, */*":       503,
		} {
			s := r.followRaw(request("GET", streamPath+"?user_id="+user, "",
				bearer(tokenFor(user, time.Hour)), accept))
			if refusal == "status" {
				want = 503
			}
			text, err := io.ReadAll(s.body)
			told := strings.HasPrefix(string(text), "retry: ")
			if s.head.status != want || told != (want == 200) || err != nil {
				t.Errorf("%s, --stream-refusal=%s: %d %q, %v", accept, refusal, s.head.status,
					text, err)
			}
		}
		const name = `rollcall_streams_refused_total{reason="too_many_of_user"}`
		if n := r.gauge(t, name); n != 4 {
			t.Errorf("%v of 4 refused streams are counted", n)
		}
	}
}
