package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
	"rollcall/wire"
)

// startInside runs the whole server within the test, where the race detector and goleak see it.
func startInside(t *testing.T, sec secrets, flags ...string) *node {
	t.Helper()
	n, err := tryInside(t, sec, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tryInside is startInside for a server that may refuse to start.
func tryInside(t *testing.T, sec secrets, flags ...string) (*node, error) {
	t.Helper()
	var c cli
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
		"--data-dir=" + t.TempDir()}
	if _, err := parser.Parse(append(args, flags...)); err != nil {
		t.Fatal(err)
	}
	// A server raises it by its loops, which are as many as it asks for: half as many again with
	// each server of a process.
	procs := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	return c.Serve.start(slog.New(slog.DiscardHandler), sec, func() {})
}

// stop ends a server that startInside started, with everything that it holds.
func (n *node) stop(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
	defer cancel()
	if err := n.Close(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("Close: %v, %v", err, ctx.Err())
	}
}

// TestStopLeavesNothing: when a server that took heartbeats and fed streams has stopped, its
// process has no goroutine and no descriptor more than before.
func TestStopLeavesNothing(t *testing.T) {
	before, files := goleak.IgnoreCurrent(), testproc.Descriptors(t)
	n := startInside(t, secrets{ingest: []string{"ingest"}, signing: []string{"signing"}})
	url := "http://" + n.public.Addr().String()
	transport := &http.Transport{}
	client := &http.Client{Transport: transport, Timeout: testwait.Limit}
	var streams []io.ReadCloser
	for range 3 {
		user := uuid.NewString()
		beat(t, client, url, user)
		streams = append(streams, follow(t, client, url, user))
	}
	n.stop(t)
	for _, s := range streams {
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Errorf("a stream did not end in order: %v", err)
		}
		s.Close()
	}
	transport.CloseIdleConnections()
	goleak.VerifyNone(t, before,
		// one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// ends when it wakes up
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
	testwait.Until(t, "the descriptors are given back",
		func() bool { return testproc.Descriptors(t) <= files })
}

func beat(t *testing.T, client *http.Client, url, user string) {
	t.Helper()
	body := fmt.Sprintf(`{"schema_version":1,"user_id":%q,"device_id":%q,"status":"online",`+
		`"source":"x","sent_at_ms":1,"seq":1,"ttl_ms":60000}`,
		user, uuid.NewString())
	req, err := http.NewRequest("POST", url+wire.HeartbeatPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer ingest")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 204 {
		t.Fatalf("heartbeat: %s", resp.Status)
	}
}

// follow opens a stream, reads the snapshot's frame and returns the rest.
func follow(t *testing.T, client *http.Client, url, user string) io.ReadCloser {
	t.Helper()
	token, err := streamToken("signing", uuid.MustParse(user), uuid.New(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", url+wire.StreamPath+"?user_id="+user, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil ||
		!strings.HasPrefix(line, "data: ") {
		t.Fatalf("stream: %q, %v", line, err)
	}
	return resp.Body
}

// TestRestartTime: a start that had a long log to read does not keep clients away for as long.
func TestRestartTime(t *testing.T) {
	for start, want := range map[time.Duration]time.Duration{
		40 * time.Millisecond: 40 * time.Millisecond,
		time.Hour:             longestRestart,
	} {
		if got := restartTime(start); got != want {
			t.Errorf("after a start of %v: %v, want %v", start, got, want)
		}
	}
}
