package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testlog"
	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// memoryCgroup makes a cgroup, of version 1 or 2, that this process may limit. Tests that need one
// are skipped where there is none to be had.
func memoryCgroup(t *testing.T) *cgroup {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var why []error
	for mount := range strings.Lines(string(mounts)) {
		f := strings.Fields(mount)
		c := &cgroup{dir: filepath.Join(f[1], "rollcall-test-"+strconv.Itoa(os.Getpid()))}
		switch {
		case f[2] == "cgroup" && slices.Contains(strings.Split(f[3], ","), "memory"):
			c.limitFile = "memory.limit_in_bytes"
		case f[2] == "cgroup2":
			c.limitFile = "memory.max"
			// refused where it is there already, or is not to be had: the limit's file tells
			_ = os.WriteFile(filepath.Join(f[1], "cgroup.subtree_control"), []byte("+memory"), 0)
		default:
			continue
		}
		if err := os.Mkdir(c.dir, 0o755); err != nil {
			why = append(why, err)
			continue
		}
		if err := c.setLimit(1 << 40); err != nil {
			why = append(why, err, os.Remove(c.dir))
			continue
		}
		t.Cleanup(func() {
			testwait.Until(t, "the cgroup is removed", func() bool { return os.Remove(c.dir) == nil })
		})
		return c
	}
	t.Skipf("a memory cgroup cannot be made here, which takes root: %v", why)
	return nil
}

type cgroup struct{ dir, limitFile string }

func (c *cgroup) setLimit(bytes int64) error {
	f, err := os.OpenFile(filepath.Join(c.dir, c.limitFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprint(f, bytes)
	return err
}

// inCgroup starts a command in the rig's cgroup.
func (r *rig) inCgroup(cmd *exec.Cmd) *exec.Cmd {
	in := exec.Command("sh", append([]string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, r.cgroup},
		cmd.Args...)...)
	in.Env = cmd.Env
	return in
}

// newDevices sends a batch of so many devices that were not there before, each with a source of its
// own of the longest kind, and returns how many were accepted, with the answer.
func (r *rig) newDevices(n int) (accepted int, body string) {
	r.t.Helper()
	var batch bytes.Buffer
	for range n {
		fmt.Fprintf(&batch, `{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online",`+
			`"source":"%s","sent_at_ms":1739030400000,"seq":1,"ttl_ms":600000}`+"\n",
			uuid.New(), uuid.New(), strings.Repeat("x", 92)+uuid.NewString())
	}
	a := r.send(request("POST", batchPath, batch.String(), bearer(ingestToken)))
	var answer struct{ Accepted int }
	if err := json.Unmarshal([]byte(a.body), &answer); err != nil || a.status != http.StatusOK {
		r.t.Fatalf("a batch of new devices: %d %s, %v\n%s", a.status, a.body, err, r.logs())
	}
	return answer.Accepted, a.body
}

// TestSmallMachine lets devices come without an end to a server in a cgroup of 96 MiB, which the
// kernel would end. New ones are refused before, known ones go on, checkpoints are taken, and a
// start in the same cgroup recovers all of it. With less memory than the recovery takes, a start
// says so first.
func TestSmallMachine(t *testing.T) {
	const limit, tooLittle = 96 << 20, 56 << 20
	var disk syscall.Statfs_t
	if err := syscall.Statfs(t.TempDir(), &disk); err != nil {
		t.Fatal(err)
	}
	if disk.Type == 0x01021994 {
		t.Skip("the temporary directory is in memory, which the cgroup would count: set TMPDIR")
	}
	if underRace {
		t.Skip("the race detector takes many times the memory")
	}
	group := memoryCgroup(t)
	if err := group.setLimit(limit); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir(), env: slices.Clone(secretsEnv), cgroup: group.dir,
		flags: []string{"--checkpoint-interval=1s"}}
	r.start()
	if want := fmt.Sprintf(`limit_bytes=%d from="the cgroup's limit"`, limit); !strings.Contains(r.logs(), want) {
		t.Errorf("the log does not say %s:\n%s", want, r.logs())
	}
	bound := int(value(t, r.scrape(), "devices_limit"))
	known := newBeat().with("ttl_ms", 600000)
	r.mustBeat(known)
	devices, body := 1, ""
	for devices < bound {
		accepted, answer := r.newDevices(10_000)
		if devices, body = devices+accepted, answer; accepted == 0 {
			t.Fatalf("%d devices of %d, and no new one is accepted: %s", devices, bound, body)
		}
	}
	if devices != bound || !strings.Contains(body, `"details":"Too many devices"`) {
		t.Errorf("%d devices, %d may be: %s", devices, bound, body)
	}
	full := func(seq int) {
		t.Helper()
		if a := r.beat(newBeat()); a.status != 503 || !strings.Contains(a.body, "Too many devices") {
			t.Errorf("a new device: %d %s", a.status, a.body)
		}
		r.mustBeat(known.with("seq", seq))
		m := r.scrape()
		if n := value(t, m, "devices", "status=online"); n != float64(bound) {
			t.Errorf("%v devices, want %d", n, bound)
		}
		if n := value(t, m, "sources"); n != float64(bound) {
			t.Errorf("%v texts of sources, want %d", n, bound)
		}
		if value(t, m, "devices_refused_total") == 0 {
			t.Error("no refused device is counted")
		}
	}
	full(2)
	r.until("a checkpoint holds all of them", func() bool {
		m := r.scrape()
		return value(t, m, "checkpoint_lsn") >= float64(bound) && value(t, m, "checkpoint_failures_total") == 0
	})
	r.kill()
	r.start()
	full(3)
	r.kill()

	if err := group.setLimit(tooLittle); err != nil {
		t.Fatal(err)
	}
	var stderr testlog.Output
	starved := testproc.Start(t, r.command(), &stderr)
	starved.Await(t, regexp.MustCompile(`level=ERROR msg="the recovery needs more memory .* `+
		fmt.Sprintf(`limit_bytes=%d .*remedy="raise the memory limit above \d+ MiB"`, tooLittle)))
}
