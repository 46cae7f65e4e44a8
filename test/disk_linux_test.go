package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

// mountMemory mounts a small disk in memory. Tests that need one are skipped where that takes a
// right that we do not have.
func mountMemory(t *testing.T, bytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small disk is not permitted here: run the tests as root")
	} else if err != nil {
		t.Fatal(err)
	}
	unmountAfter(t, dir)
	return dir
}

// mountFile makes a file an ext4 disk and mounts it.
func mountFile(t *testing.T, bytes int64) (dir, image string) {
	t.Helper()
	image, dir = filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if err := runTool(command...); err != nil {
			t.Skipf("an ext4 disk cannot be made and mounted here, which takes root and mkfs.ext4: %v", err)
		}
	}
	unmountAfter(t, dir)
	return dir, image
}

func runTool(command ...string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", command, err, out)
	}
	return nil
}

func unmountAfter(t *testing.T, dir string) {
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// ballast fills the disk up to the last page.
func ballast(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		if _, err := f.Write(piece); errors.Is(err, syscall.ENOSPC) {
			piece = piece[:len(piece)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// sender is a device that sends heartbeats over one connection and knows what was acknowledged.
type sender struct {
	beat  beat
	conn  io.ReadWriteCloser
	br    *bufio.Reader
	acked int
	sent  int
}

func (r *rig) sender(user string) *sender {
	r.t.Helper()
	c := r.dial()
	c.SetDeadline(time.Time{})
	r.t.Cleanup(func() { c.Close() })
	return &sender{beat: newBeat().with("user_id", user).with("source", strings.Repeat("x", 128)),
		conn: c, br: bufio.NewReader(c)}
}

// send sends the next heartbeat and returns the status; 0: the server is gone.
func (s *sender) send() int {
	s.sent++
	if _, err := io.WriteString(s.conn,
		request("POST", heartbeatPath, s.beat.with("seq", s.sent).json(), bearer(ingestToken))); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(s.br, nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	if resp.StatusCode == 204 {
		s.acked = s.sent
	}
	return resp.StatusCode
}

// flood lets some devices send until each got another answer than 204.
func flood(t *testing.T, senders []*sender) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range senders {
		wg.Go(func() {
			for end := time.Now().Add(3 * testwait.Limit); ; {
				switch status := s.send(); {
				case status == 503:
					return
				case status != 204:
					t.Errorf("status %d", status)
					return
				case time.Now().After(end):
					t.Error("the disk is full, and heartbeats are still accepted")
					return
				}
			}
		})
	}
	wg.Wait()
}

// wantSeqs checks that each device stands at what was acknowledged last, or at a later heartbeat
// that it sent.
func wantSeqs(t *testing.T, r *rig, user string, senders []*sender) {
	t.Helper()
	got := snapshotSeqs(r, user)
	for _, s := range senders {
		if seq := got[s.beat["device_id"].(string)]; seq < s.acked || seq > s.sent {
			t.Errorf("the server stands at %d; %d was acknowledged, %d sent", seq, s.acked, s.sent)
		}
	}
}

// TestFullDisk fills the disk under a running server. Heartbeats are refused and /readyz says why;
// an open stream stays and is told that its device went silent before; when there is room again the
// server goes on by itself, and kill -9 loses nothing.
func TestFullDisk(t *testing.T) {
	disk := mountMemory(t, "64m")
	r := startServerIn(t, filepath.Join(disk, "data"), "--segment-bytes=8388608", "--stream-keepalive=100ms")
	user := uuid.NewString()
	watched := newBeat().with("ttl_ms", 1)
	r.mustBeat(watched)
	stream := r.follow(watched["user_id"].(string))
	for stream.event()["status"] != "offline" {
	}
	fill := filepath.Join(disk, "ballast")
	ballast(t, fill)
	var senders []*sender
	for range 16 {
		senders = append(senders, r.sender(user))
	}
	flood(t, senders)
	if body := r.untilReadyz(503, ""); !strings.Contains(body, "free disk space") {
		t.Errorf("/readyz: %q", body)
	}
	if text, err := stream.frame(); err != nil || !strings.HasPrefix(text, ":") {
		t.Errorf("an open stream on a full disk: %q, %v", text, err)
	}
	if late := r.beat(newBeat()); late.status != 503 || !strings.Contains(late.body, `"unavailable"`) {
		t.Errorf("a new device on a full disk: %d %s", late.status, late.body)
	}

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	r.untilReadyz(200, "")
	for _, s := range senders {
		if status := s.send(); status != 204 {
			t.Errorf("there is room again, but: %d", status)
		}
	}
	if text, err := stream.frame(); err != nil || !strings.HasPrefix(text, ":") {
		t.Errorf("the stream afterwards: %q, %v", text, err)
	}
	r.kill()
	r.start()
	wantSeqs(t, r, user, senders)
}

// TestReadOnlyDisk turns the disk read-only under a running server, as the kernel does when a disk
// gives errors: the log cannot be written, so the server ends, says why and what to do, and does
// not start before the disk can be written again.
func TestReadOnlyDisk(t *testing.T) {
	disk, image := mountFile(t, 128<<20)
	r := startServerIn(t, filepath.Join(disk, "data"))
	user := uuid.NewString()
	s := r.sender(user)
	for range 10 {
		if status := s.send(); status != 204 {
			t.Fatal(status)
		}
	}
	if err := runTool("mount", "-o", "remount,abort", disk); err != nil {
		t.Skipf("the disk cannot be made read-only here: %v", err)
	}
	if status := s.send(); status != 503 && status != 0 {
		t.Errorf("a heartbeat on a read-only disk: %d", status)
	}
	select {
	case <-r.proc.Exited:
	case <-time.After(testwait.Limit):
		t.Fatalf("the log cannot be written, and the server goes on\n%s", r.logs())
	}
	if code := r.proc.Cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(r.logs(), "read-only file system") ||
		!strings.Contains(r.logs(), "check the disk, then start again") {
		t.Errorf("exit %d:\n%s", code, r.logs())
	}
	if out, err := r.command().CombinedOutput(); err == nil || !strings.Contains(string(out), "read-only file system") {
		t.Errorf("a start on a read-only disk: %v\n%s", err, out)
	}
	// What the kernel has stopped cannot be made writable in place.
	if err := errors.Join(syscall.Unmount(disk, 0), runTool("mount", "-o", "loop", image, disk)); err != nil {
		t.Fatal(err)
	}
	r.start()
	wantSeqs(t, r, user, []*sender{s})
}
