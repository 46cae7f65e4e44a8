package test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/testlog"
	"rollcall/internal/testport"
	"rollcall/internal/testproc"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// TestLoadOfListsOverRestarts follows streams of many users, in both views, while devices go and
// come back, lists hang up and resume, tokens are renewed, and the server is stopped and killed by
// turns, with small limits. The generator's oracle must find nothing: no event lost, doubled or out
// of order, no aggregate that its devices cannot have, no user offline within the linger, and each
// resume ends at what a fresh list gets.
func TestLoadOfListsOverRestarts(t *testing.T) {
	const lists = 12
	r := startServer(t, "--drain-timeout=1s", "--listen="+testport.Address(t))
	cmd := exec.Command(binary, "load", "--target=http://"+r.addr,
		fmt.Sprintf("--seed=%d", testseed.Of(t)), "--users=60", "--devices-per-user=2",
		"--interval=400ms", "--ttl=1500ms", "--flip-share=8", "--connections=8",
		fmt.Sprintf("--lists=%d", lists), "--list-size=20", "--list-skew=0.5", "--list-view=both",
		"--list-linger=1s", "--list-auth=both", "--list-token-ttl=6s", "--churn=5",
		"--fresh-share=0.2", "--slow-share=0.1", "--warmup=1s", "--duration=10m", "--max-lag=1h",
		"--max-wait=15s", "--timeout=5m")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, secretsEnv...)
	var table strings.Builder
	cmd.Stdout = &table
	var progress testlog.Output
	load := testproc.Start(t, cmd, &progress)
	load.Await(t, regexp.MustCompile(`(?m)^steady`))
	up := func() {
		t.Helper()
		r.until("all lists are up", func() bool {
			select {
			case <-load.Exited:
				t.Fatalf("the load ended: %v\n%s\n%s", load.Err, progress.String(), table.String())
			default:
			}
			return r.gauge(t, "rollcall_streams") >= lists-2 // some hang up at any time
		})
	}
	for _, stop := range []func(){r.terminate, r.kill, r.kill, r.terminate} {
		up()
		stop()
		r.start()
	}
	up()
	load.Cmd.Process.Signal(syscall.SIGINT) // what was seen is judged
	select {
	case <-load.Exited:
	case <-time.After(2 * testwait.Limit):
		t.Fatalf("the load does not end\n%s", progress.String())
	}
	if load.Err != nil || !strings.Contains(table.String(), "nothing wrong") {
		t.Errorf("%v\n%s\n%s", load.Err, progress.String(), table.String())
	}
	for _, what := range []string{"list_resumes", "list_renewals", "streams_ended"} {
		if !strings.Contains(table.String(), what) {
			t.Errorf("no %s:\n%s", what, table.String())
		}
	}
	t.Log(table.String())
}
