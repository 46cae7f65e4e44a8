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
)

// TestDrain: what a deploy looks like from outside. From SIGTERM on /readyz says no and new streams
// are turned away; each open stream is told when to come back and ends cleanly; a heartbeat that
// was half sent is answered; the exit status is 0. That the ends are spread is TestDrainSpreadsEnds
// of package broadcast, where time can be told.
func TestDrain(t *testing.T) {
	const streams = 40
	r := startServer(t, "--drain-timeout=1s")
	user := uuid.NewString()
	var all sync.WaitGroup
	retries := make(chan int, streams)
	for range streams {
		s := r.follow(user)
		all.Go(func() {
			text, err := io.ReadAll(s.body)
			s.conn.Close()
			retry, err2 := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(string(text), "retry: "), "\n\n"))
			if err := errors.Join(err, err2); err != nil {
				t.Errorf("a stream ended with %q: %v", text, err)
			}
			retries <- retry
		})
	}
	// its client does not hang up: until we do, or for some seconds, the server is not done
	stays := r.follow(user)
	busy := r.dial()
	defer busy.Close()
	half := request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken))
	io.WriteString(busy, half[:len(half)-20])

	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.untilReadyz(http.StatusServiceUnavailable, "draining")
	a := r.send(request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour))))
	expect(t, a, 503, errorBody("unavailable", "Server is about to stop"))
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 || n > 10 {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
	r.mustBeat(newBeat()) // daemons are served to the end
	io.WriteString(busy, half[len(half)-20:])
	expect(t, readAnswer(t, bufio.NewReader(busy), false), 204, "")
	stays.conn.Close()

	all.Wait()
	close(retries)
	different := make(map[int]bool)
	for retry := range retries {
		if different[retry] = true; retry < 1000 || retry > 10_000 {
			t.Errorf("retry: %d", retry)
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
