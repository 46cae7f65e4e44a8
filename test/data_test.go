package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

// tool runs the binary and returns its exit status and what it wrote.
func tool(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// inspected is the output of `rollcall inspect --json` by kind of line.
type inspected map[string][]map[string]any

func inspect(t *testing.T, wantCode int, dir string, flags ...string) inspected {
	t.Helper()
	code, out, errs := tool(t, append([]string{"inspect", "--json", dir}, flags...)...)
	if code != wantCode {
		t.Fatalf("inspect: exit status %d, want %d\n%s%s", code, wantCode, out, errs)
	}
	found := inspected{}
	for line := range strings.Lines(out) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kind := l["kind"].(string)
		found[kind] = append(found[kind], l)
	}
	return found
}

// field returns a field of the only line of a kind.
func (i inspected) field(t *testing.T, kind, field string) any {
	t.Helper()
	if len(i[kind]) != 1 {
		t.Fatalf("%d lines of kind %q", len(i[kind]), kind)
	}
	return i[kind][0][field]
}

// tree is every file below a directory with its size and the time of its last change.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&text, path, info.Size(), info.ModTime())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// awaitCheckpoint waits until the server has taken a checkpoint as of a record.
func awaitCheckpoint(t *testing.T, r *rig, lsn float64) {
	t.Helper()
	r.until(fmt.Sprintf("a checkpoint as of %v", lsn), func() bool {
		return inspect(t, 0, r.dir).field(t, "checkpoint", "lsn").(float64) >= lsn
	})
}

func TestInspect(t *testing.T) {
	r := startServer(t, "--checkpoint-bytes=1")
	user := uuid.NewString()
	beats := []beat{newBeat().with("user_id", user), newBeat().with("user_id", user).with("status", "offline").with("seq", 7), newBeat()}
	for _, b := range beats {
		r.mustBeat(b)
	}
	awaitCheckpoint(t, r, 3)

	live := inspect(t, 0, r.dir, "--user="+user)
	if pid := live.field(t, "directory", "held_by_pid"); pid != float64(r.proc.Cmd.Process.Pid) {
		t.Errorf("held by %v, the server is %d", pid, r.proc.Cmd.Process.Pid)
	}
	if d := live["devices"][0]; d["total"] != 3.0 || d["online"] != 2.0 || d["offline"] != 1.0 {
		t.Errorf("devices %v", d)
	}
	if n := live.field(t, "checkpoint", "devices"); n != 3.0 {
		t.Errorf("%v devices in the checkpoint", n)
	}
	if len(live["device"]) != 2 {
		t.Errorf("%d devices of the user", len(live["device"]))
	}
	for _, d := range live["device"] {
		if d["device_id"] == beats[1]["device_id"] && (d["status"] != "offline" || d["seq"] != 7.0 || d["source"] != "daemon-do" || d["lsn"] != 2.0) {
			t.Errorf("device %v", d)
		}
	}
	if n := len(inspect(t, 0, r.dir, "--devices=1")["device"]); n != 1 {
		t.Errorf("--devices=1 lists %d", n)
	}

	r.terminate()
	before := tree(t, r.dir)
	stopped := inspect(t, 0, r.dir)
	if after := tree(t, r.dir); after != before {
		t.Errorf("inspect changed something:\n%s\nbefore:\n%s", after, before)
	}
	if pid := stopped.field(t, "directory", "held_by_pid"); pid != 0.0 {
		t.Errorf("held by %v", pid)
	}
	if next := stopped.field(t, "log", "next_lsn"); next != 4.0 || len(stopped["segment"]) == 0 || len(stopped["device"]) != 3 {
		t.Errorf("%v", stopped)
	}
	if code, out, _ := tool(t, "inspect", r.dir, "--devices", "-1"); code != 0 ||
		strings.Count(out, "\ndevice ") != 3 || !strings.Contains(out, "none works on it") {
		t.Errorf("exit status %d\n%s", code, out)
	}
}

// TestInspectFindsDamage: exit status 1, and where; a server does not start on it, for the same
// reason.
func TestInspectFindsDamage(t *testing.T) {
	r := startServer(t)
	for range 3 {
		r.mustBeat(newBeat())
	}
	r.terminate()
	segment := filepath.Join(r.dir, "00000000000000000001.wal")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[64+40+10] ^= 1 // in the first block's payload, behind the headers
	if err := os.WriteFile(segment, b, 0o644); err != nil {
		t.Fatal(err)
	}
	found := inspect(t, 1, r.dir)
	d := found["damage"]
	if len(d) != 1 || d[0]["segment"] != 1.0 || d[0]["offset"] != 64.0 || d[0]["lsn"] != 1.0 || d[0]["path"] != segment {
		t.Fatalf("%v", d)
	}
	if text := d[0]["error"].(string); !strings.Contains(text, "backup") {
		t.Errorf("it does not say what to do: %s", text)
	}
	code, out, _ := tool(t, "inspect", r.dir)
	if code != 1 || !strings.Contains(out, "DAMAGE") || !strings.Contains(out, segment) {
		t.Errorf("exit status %d\n%s", code, out)
	}
	wantNoStart(t, r, "corrupt at offset 64")
	target := filepath.Join(t.TempDir(), "copy")
	if code, _, errs := tool(t, "backup", r.dir, target); code != 1 || !strings.Contains(errs, "corrupt at offset 64") {
		t.Errorf("backup: exit status %d, %s", code, errs)
	}
	if left, _ := filepath.Glob(target + "*"); left != nil {
		t.Errorf("a backup of damage left %v", left)
	}
}

// TestInspectFindsADamagedCheckpoint: what the log still has is shown, and how to go on.
func TestInspectFindsADamagedCheckpoint(t *testing.T) {
	r := startServer(t, "--checkpoint-bytes=1")
	r.mustBeat(newBeat())
	awaitCheckpoint(t, r, 1)
	r.terminate()
	tables, err := filepath.Glob(filepath.Join(r.dir, "checkpoint", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("%v, %v", tables, err)
	}
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		b[5] ^= 1 // in the first block
		if err := os.WriteFile(table, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const why = "Restore the data directory from a backup"
	found := inspect(t, 1, r.dir)
	if text := found.field(t, "damage", "error").(string); !strings.Contains(text, why) ||
		!slices.Contains(tables, found.field(t, "damage", "path").(string)) {
		t.Errorf("inspect: %s", text)
	}
	if len(found["segment"]) == 0 {
		t.Error("the segments are not shown")
	}
	wantNoStart(t, r, why)
	target := filepath.Join(t.TempDir(), "copy")
	if code, _, errs := tool(t, "backup", r.dir, target); code != 1 || !strings.Contains(errs, "no backup was made") {
		t.Errorf("backup: exit status %d, %s", code, errs)
	}
}

// wantNoStart runs serve, which must end with exit status 1 and say why.
func wantNoStart(t *testing.T, r *rig, why string) {
	t.Helper()
	again, serves := (&damaged{t: t, dir: r.dir}).trial(r.flags...)
	if serves || again.proc.Cmd.ProcessState.ExitCode() != 1 ||
		!strings.Contains(again.logs(), why) {
		t.Errorf("serves: %v\n%s\nwant %q", serves, again.logs(), why)
	}
}

// TestLogTakenAway: a checkpoint without its log is not served, and not touched.
func TestLogTakenAway(t *testing.T) {
	r := startServer(t, "--checkpoint-bytes=1")
	r.mustBeat(newBeat())
	awaitCheckpoint(t, r, 1)
	r.terminate()
	segments, err := filepath.Glob(filepath.Join(r.dir, "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("%v, %v", segments, err)
	}
	for _, s := range segments {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	wantNoStart(t, r, "has no log segment")
	if segments, _ := filepath.Glob(filepath.Join(r.dir, "*.wal")); segments != nil {
		t.Errorf("a refused start left %v", segments)
	}
	if text := inspect(t, 1, r.dir).field(t, "damage", "error").(string); !strings.Contains(text, "has no log segment") {
		t.Errorf("inspect: %s", text)
	}
}

// TestNewerFormat: what a later version wrote is refused by its name.
func TestNewerFormat(t *testing.T) {
	r := startServer(t)
	r.mustBeat(newBeat())
	r.terminate()
	segment := filepath.Join(r.dir, "00000000000000000001.wal")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[8] = 3 // the format version
	if err := os.WriteFile(segment, b, 0o644); err != nil {
		t.Fatal(err)
	}
	const why = "format version 3, but this binary reads up to version 2"
	wantNoStart(t, r, why)
	if text := inspect(t, 1, r.dir).field(t, "damage", "error").(string); !strings.Contains(text, why) {
		t.Errorf("inspect: %s", text)
	}
}

func TestMaxDevices(t *testing.T) {
	r := startServer(t, "--max-devices=1")
	known := newBeat()
	r.mustBeat(known)
	if a := r.beat(newBeat()); a.status != 503 || a.body != `{"error":"unavailable","details":"Too many devices"}` {
		t.Errorf("a second device: %d %s", a.status, a.body)
	}
	r.mustBeat(known.with("seq", 2))
	r.until("it is logged", func() bool { return strings.Contains(r.logs(), "new devices are refused") })
}

// TestStartOverMaxDevices: a server that knows more devices than it may serves them, says so with
// both numbers, and refuses new ones.
func TestStartOverMaxDevices(t *testing.T) {
	r := startServer(t)
	known := newBeat()
	for _, b := range []beat{known, newBeat(), newBeat()} {
		r.mustBeat(b)
	}
	r.terminate()
	r.flags = []string{"--max-devices=2"}
	r.start()
	if !strings.Contains(r.logs(), "devices=3 max_devices=2 over=1") {
		t.Errorf("the log does not say how many are too many:\n%s", r.logs())
	}
	r.mustBeat(known.with("seq", 2))
	if a := r.beat(newBeat()); a.status != 503 || !strings.Contains(a.body, "Too many devices") {
		t.Errorf("a new device: %d %s", a.status, a.body)
	}
}

// steady sends heartbeats for its device, one after the other, until it is stopped. acked is the
// last one that was answered.
type steady struct {
	beat  beat
	acked atomic.Int64
}

func (s *steady) run(addr string, stop <-chan struct{}) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * testwait.Limit))
	br := bufio.NewReader(c)
	for seq := int64(1); ; {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err := io.WriteString(c,
			request("POST", heartbeatPath, s.beat.with("seq", seq).json(), bearer(ingestToken))); err != nil {
			return err
		}
		head, err := br.ReadString('\n')
		body := 0
		for line := head; err == nil && line != "\r\n"; {
			fmt.Sscanf(line, "Content-Length: %d", &body)
			line, err = br.ReadString('\n')
		}
		if _, skipped := br.Discard(body); err != nil || skipped != nil {
			return fmt.Errorf("seq %d: %q, %v, %v", seq, head, err, skipped)
		}
		switch {
		case strings.HasPrefix(head, "HTTP/1.1 204"):
			s.acked.Store(seq)
			seq++
		case !strings.HasPrefix(head, "HTTP/1.1 503"): // the disk is behind: the same once more
			return fmt.Errorf("seq %d: %q", seq, head)
		}
	}
}

// TestBackupUnderLoad takes backups of a server that takes heartbeats and one checkpoint after the
// other. A server on each of them knows everything that was acknowledged before it was begun.
func TestBackupUnderLoad(t *testing.T) {
	r := startServer(t, "--checkpoint-bytes=1", "--segment-bytes=8388608")
	user := uuid.NewString()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	devices := make([]*steady, 8)
	for i := range devices {
		devices[i] = &steady{beat: newBeat().with("user_id", user)}
		writers.Go(func() {
			if err := devices[i].run(r.addr, stop); err != nil {
				t.Errorf("device %d: %v", i, err)
			}
		})
	}
	awaitCheckpoint(t, r, 1)
	backups := 5
	if testing.Short() {
		backups = 2
	}
	var targets []string
	acked := make([][]int64, backups)
	for n := range backups {
		for _, d := range devices {
			acked[n] = append(acked[n], d.acked.Load())
		}
		targets = append(targets, filepath.Join(t.TempDir(), "copy"))
		if code, out, errs := tool(t, "backup", r.dir, targets[n]); code != 0 || !strings.Contains(out, "read back and whole") {
			t.Fatalf("backup %d: exit status %d\n%s%s", n, code, out, errs)
		}
	}
	close(stop)
	writers.Wait()
	r.kill()
	for n, target := range targets {
		inspect(t, 0, target)
		restored := &rig{t: t, dir: target, env: r.env}
		restored.start()
		got := snapshotSeqs(restored, user)
		restored.kill()
		for i, d := range devices {
			if seq := got[d.beat["device_id"].(string)]; int64(seq) < acked[n][i] {
				t.Errorf("backup %d: device %d stands at %d, %d was acknowledged before", n, i, seq, acked[n][i])
			}
		}
	}
}

func TestBackupRefuses(t *testing.T) {
	r := startServer(t)
	r.mustBeat(newBeat())
	full, parent := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(parent, "unfinished")
	if err := os.Mkdir(unfinished+".partial", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, target, why string }{
		"a target with something in it":  {r.dir, full, "is not empty"},
		"a backup that did not finish":   {r.dir, unfinished, "remove it"},
		"no such directory":              {filepath.Join(parent, "none"), filepath.Join(parent, "a"), "no such file"},
		"a directory that holds no data": {full, filepath.Join(parent, "b"), "not a data directory of rollcall"},
	} {
		if code, _, errs := tool(t, "backup", c.dir, c.target); code != 1 ||
			!strings.Contains(errs, c.why) {
			t.Errorf("%s: exit status %d, %s", name, code, errs)
		}
	}
	empty := t.TempDir()
	if code, _, errs := tool(t, "backup", r.dir, empty); code != 0 {
		t.Errorf("an empty target: exit status %d, %s", code, errs)
	}
	inspect(t, 0, empty)
}
