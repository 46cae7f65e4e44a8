package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"rollcall/internal/testport"
)

// load runs `rollcall load` against addr for a second with a small crowd and returns its exit code
// and its output.
func load(t *testing.T, addr string, flags ...string) (code int, output string) {
	t.Helper()
	args := append([]string{"load", "--target=http://" + addr, "--users=20", "--devices-per-user=3", "--streams-per-user=1",
		"--rate=100", "--ttl=5s", "--duration=1s", "--warmup=300ms", "--connections=8", "--max-lag=1m"}, flags...)
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), ingestTokenEnv + "=" + ingestToken,
		signingKeyEnv + "=" + signingKey}
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestLoadJudgesAndReports: a good server passes, the files are written, and a run compares well
// with itself.
func TestLoadJudgesAndReports(t *testing.T) {
	r := startServer(t)
	file := filepath.Join(t.TempDir(), "run.json")
	page := filepath.Join(t.TempDir(), "run.html")
	code, out := load(t, r.addr, "--json="+file, "--html="+page, "--churn=10", "--repeat-share=0.1", "--arrivals=poisson")
	if code != 0 || !strings.Contains(out, "nothing wrong") || strings.Contains(out, "\r") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rep struct {
		Achieved float64 `json:"achieved_per_second"`
		Version  string
	}
	if err := json.Unmarshal(text, &rep); err != nil || rep.Achieved < 50 || rep.Version == "" {
		t.Errorf("%v: %+v", err, rep)
	}
	if info, err := os.Stat(page); err != nil || info.Size() < 10_000 {
		t.Errorf("%v %v", info, err)
	}
	code, out = load(t, r.addr, "--compare="+file, "--worse-latency=1000", "--worse-rate=0.9")
	if code != 0 || !strings.Contains(out, "compared") {
		t.Errorf("exit %d\n%s", code, out)
	}
	var better map[string]any // a run that no server is as fast as
	if err := json.Unmarshal(text, &better); err != nil {
		t.Fatal(err)
	}
	better["achieved_per_second"] = 1e9
	if text, err = json.Marshal(better); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out = load(t, r.addr, "--compare="+file, "--quiet")
	if code != 4 || !strings.Contains(out, "WORSE") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestLoadExitCodes(t *testing.T) {
	r := startServer(t)
	for _, c := range []struct {
		flags []string
		code  int
		says  string
	}{
		{[]string{"--max-lag=1ns"}, 3, "INVALID"},
		{[]string{"--scenario=nonsense"}, 1, "slow-readers"},
		{[]string{"--target=http://127.0.0.1:1"}, 1, "refused"},
		{[]string{"--streams-per-user=1e6"}, 1, "descriptors"},
	} {
		if code, out := load(t, r.addr, c.flags...); code != c.code ||
			!strings.Contains(out, c.says) {
			t.Errorf("%v: exit %d, want %d and %q\n%s", c.flags, code, c.code, c.says, out)
		}
	}
}

// TestLoadSeesAKilledServerRecover is the promise about kill -9 once more, seen by the generator's
// oracle: streams and final snapshots miss nothing that was acknowledged, and no device is shown
// offline for the server's absence.
func TestLoadSeesAKilledServerRecover(t *testing.T) {
	r := startServer(t, "--listen="+testport.Address(t))
	pids := filepath.Join(t.TempDir(), "pid")
	// The old process holds the port and the directory until it is gone.
	command := fmt.Sprintf(`kill -9 %[1]d; while kill -0 %[1]d 2>/dev/null; do sleep 0.02; done
		%[2]s serve --listen=%[3]s --admin-listen=127.0.0.1:0 --data-dir=%[4]s & echo $! >%[5]s`,
		r.proc.Cmd.Process.Pid, binary, r.addr, r.dir, pids)
	t.Cleanup(func() {
		if text, err := os.ReadFile(pids); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	code, out := load(t, r.addr, "--scenario=restart", "--duration=3s", "--max-wait=20s", "--restart-command="+command)
	if code != 0 || !strings.Contains(out, "longest outage") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// TestBareAnswersEverything: the reference can be driven by the same generator.
func TestBareAnswersEverything(t *testing.T) {
	cmd := exec.Command(binary, "load", "bare", "--listen=127.0.0.1:0")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(pipe).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(line)
	code, out := load(t, fields[len(fields)-1], "--closed", "--no-oracle", "--streams-per-user=0", "--connections=4")
	if code != 0 || !strings.Contains(out, "oracle             off") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
