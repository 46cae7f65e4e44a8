package test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/tmaxmax/go-sse"

	"rollcall/internal/testwait"
)

// Clients of other authors read the stream. Each must see the device online and then,
// after its ttl, offline.

func TestInteropCurl(t *testing.T) {
	interopCommand(t, func(url, token string) *exec.Cmd {
		return exec.Command("curl", "-sN", "-H", bearer(token), url)
	}, "data: ")
}

// TestInteropEventSource needs `npm ci` in test/interop; the gate does that.
func TestInteropEventSource(t *testing.T) {
	if err := exec.Command("node", "-e", "require.resolve('eventsource',{paths:['interop']})").Run(); err != nil {
		needs(t, "node and `npm ci` in test/interop: ", err)
	}
	interopCommand(t, func(url, token string) *exec.Cmd {
		return exec.Command("node", "interop/follow.mjs", url, token, "2")
	}, "")
}

// needs skips a test for what it needs and is not there. With ROLLCALL_NO_SKIP it fails.
func needs(t *testing.T, what ...any) {
	t.Helper()
	if os.Getenv("ROLLCALL_NO_SKIP") != "" {
		t.Fatal("with ROLLCALL_NO_SKIP nothing is left out; needs ", fmt.Sprint(what...))
	}
	t.Skip("needs ", fmt.Sprint(what...))
}

// interopCommand runs a client that prints payloads, one a line.
func interopCommand(t *testing.T, client func(url, token string) *exec.Cmd, prefix string) {
	if _, err := exec.LookPath(client("", "").Args[0]); err != nil {
		needs(t, err)
	}
	r := startServer(t)
	user := uuid.NewString()
	cmd := client("http://"+r.addr+streamPath+"?user_id="+user, tokenFor(user, time.Hour))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(testwait.Limit, func() { cmd.Process.Kill() })
	defer stop.Stop()
	var statuses []string
	payloads := make(chan string, 16)
	go func() {
		defer close(payloads)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if payload, ok := strings.CutPrefix(lines.Text(), prefix); ok && payload != "" {
				payloads <- payload
			}
		}
	}()
	r.followed(t)
	r.mustBeat(newBeat().with("user_id", user).with("ttl_ms", 500))
	for payload := range payloads {
		switch {
		case strings.Contains(payload, `"status":"online"`):
			statuses = append(statuses, "online")
		case strings.Contains(payload, `"status":"offline"`):
			statuses = append(statuses, "offline")
		default:
			t.Errorf("payload %q", payload)
		}
		if len(statuses) == 2 {
			cmd.Process.Kill()
			break
		}
	}
	cmd.Wait()
	wantOnlineThenOffline(t, statuses)
}

// followed waits until the one stream has its snapshot: one that is taken after the ttl would show
// offline alone.
func (r *rig) followed(t *testing.T) {
	t.Helper()
	r.until("the client opens a stream", func() bool {
		return r.gauge(t, "rollcall_streams_opened_total") == 1
	})
}

func wantOnlineThenOffline(t *testing.T, statuses []string) {
	t.Helper()
	if strings.Join(statuses, " ") != "online offline" {
		t.Errorf("saw %v, want online, then offline", statuses)
	}
}

func TestInteropGoSSE(t *testing.T) {
	r := startServer(t)
	user := uuid.NewString()
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+r.addr+streamPath+"?user_id="+user, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tokenFor(user, time.Hour))
	var statuses []string
	conn := sse.NewConnection(req)
	conn.SubscribeMessages(func(ev sse.Event) {
		if _, rest, ok := strings.Cut(ev.Data, `"status":"`); ok {
			status, _, _ := strings.Cut(rest, `"`)
			statuses = append(statuses, status)
		}
		if len(statuses) == 2 {
			cancel()
		}
	})
	var following sync.WaitGroup
	following.Go(func() { conn.Connect() })
	r.followed(t)
	r.mustBeat(newBeat().with("user_id", user).with("ttl_ms", 500))
	following.Wait()
	wantOnlineThenOffline(t, statuses)
}

// TestInteropTypeScript runs the TypeScript client's own tests against the binary. `make client-ts`
// builds them.
func TestInteropTypeScript(t *testing.T) {
	t.Parallel()
	tests, err := filepath.Glob("../client/ts/build/*.test.js")
	if err != nil || len(tests) < 2 {
		needs(t, "node and `make client-ts`: ", tests, err)
	}
	// A test that fails may leave something behind that Node waits for.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"--test"}, tests...)...)
	cmd.Env = append(os.Environ(), "ROLLCALL_BINARY="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
