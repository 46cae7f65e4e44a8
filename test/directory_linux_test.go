package test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/testlog"
	"rollcall/internal/testproc"
	"rollcall/internal/testtree"
	"rollcall/internal/testwait"
)

// newDirServer is a server on a data directory that it makes, with two heartbeats in it.
func newDirServer(t *testing.T, flags ...string) (r *rig, b beat) {
	t.Helper()
	r = startServerIn(t, filepath.Join(t.TempDir(), "data"), flags...)
	b = newBeat()
	r.mustBeat(b)
	r.mustBeat(b.with("seq", 2))
	return r, b
}

// wantMovedExit waits for the end of a server whose directory is another one.
func (r *rig) wantMovedExit() {
	r.t.Helper()
	select {
	case <-r.proc.Exited:
	case <-time.After(testwait.Limit):
		r.t.Fatalf("the directory is another one, and the server goes on\n%s", r.logs())
	}
	code, last := r.proc.Cmd.ProcessState.ExitCode(), lastLine(r.logs())
	for _, want := range []string{"the directory was removed or replaced", r.dir, "Start again"} {
		if code != 1 || !strings.Contains(last, want) {
			r.t.Errorf("exit %d, and the last line does not say %q: %s", code, want, last)
		}
	}
}

// wantLocked starts a second server on the directory, which is refused by the first one's lock.
func (r *rig) wantLocked(what string) {
	r.t.Helper()
	var out testlog.Output
	second := testproc.Start(r.t, r.command(), &out)
	select {
	case <-second.Exited:
	case <-time.After(testwait.Limit):
		r.t.Fatalf("%s is not refused:\n%s", what, &out)
	}
	want := fmt.Sprintf("process %d has locked %s", r.proc.Cmd.Process.Pid, r.dir)
	if last := lastLine(out.String()); second.Err == nil || !strings.Contains(last, want) ||
		!strings.Contains(last, "stop the other process") {
		r.t.Errorf("%s: %v, and it does not say %q: %s", what, second.Err, want, last)
	}
}

// whileStopped does something to the directory while the server is stopped, which so can neither
// notice half of it nor make a file meanwhile.
func (r *rig) whileStopped(change func()) {
	r.t.Helper()
	pid := r.proc.Cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	r.until("it is stopped", func() bool { return strings.Trim(threads(pid), "T") == "" })
	change()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		r.t.Fatal(err)
	}
}

// removeDir removes the server's directory.
func (r *rig) removeDir() {
	r.t.Helper()
	r.whileStopped(func() {
		if err := os.RemoveAll(r.dir); err != nil {
			r.t.Fatal(err)
		}
	})
}

// TestDirectoryRemoved: a server whose directory is removed ends, and says so. It does not make the
// directory again.
func TestDirectoryRemoved(t *testing.T) {
	r, _ := newDirServer(t)
	r.removeDir()
	r.wantMovedExit()
	if _, err := os.Lstat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there again: %v", err)
	}
}

// TestDirectoryRestoredUnderTheServer: a backup is put in the place of a directory while the server
// still lives. The server changes no byte of it and ends; the next one starts on what was restored.
// What was moved away starts too.
func TestDirectoryRestoredUnderTheServer(t *testing.T) {
	// Small segments and eager checkpoints: the server makes and removes files all the time.
	r, b := newDirServer(t, "--segment-bytes=8388608", "--checkpoint-bytes=1",
		"--checkpoint-interval=100ms")
	backup := filepath.Join(t.TempDir(), "backup")
	if code, out, errs := tool(t, "backup", r.dir, backup); code != 0 {
		t.Fatalf("backup: %d %s%s", code, out, errs)
	}
	restored := testtree.Of(t, backup)
	s := r.sender(b["user_id"].(string))
	if status := s.send(); status != 204 {
		t.Fatal(status)
	}
	away := r.dir + ".away"
	if err := errors.Join(os.Rename(r.dir, away), os.Rename(backup, r.dir)); err != nil {
		t.Fatal(err)
	}
	for s.send() == 204 { // until it ends
	}
	r.wantMovedExit()
	if diff := restored.Changes(testtree.Of(t, r.dir)); diff != "" {
		t.Errorf("the server changed the restored directory:\n%s", diff)
	}
	device := s.beat["device_id"].(string)
	if got := inspect(t, 0, away, "--devices=-1").devices()[device]; got < s.acked {
		t.Errorf("what was moved away stands at %d; %d was acknowledged", got, s.acked)
	}
	r.start()
	if got := snapshotSeqs(r, b["user_id"].(string))[b["device_id"].(string)]; got != 2 {
		t.Errorf("the restored server stands at %d", got)
	}
	r.terminate()
}

// TestTwoServersOfOnePath: the second server starts on a restored directory at once, beside the
// first, which ends and leaves the second alone.
func TestTwoServersOfOnePath(t *testing.T) {
	first, b := newDirServer(t)
	backup := filepath.Join(t.TempDir(), "backup")
	if code, out, errs := tool(t, "backup", first.dir, backup); code != 0 {
		t.Fatalf("backup: %d %s%s", code, out, errs)
	}
	err := errors.Join(os.Rename(first.dir, first.dir+".away"), os.Rename(backup, first.dir))
	if err != nil {
		t.Fatal(err)
	}
	second := startServerIn(t, first.dir)
	second.mustBeat(b.with("seq", 3))
	first.wantMovedExit()
	second.mustBeat(b.with("seq", 4))
	second.kill()
	second.start()
	device := b["device_id"].(string)
	if got := snapshotSeqs(second, b["user_id"].(string))[device]; got != 4 {
		t.Errorf("the second server stands at %d, 4 was acknowledged", got)
	}
	second.terminate()
}

// TestLockIsNeverStale: a second server is refused and told the process that works on the
// directory, also after its LOCK was removed. The first one notices that, and ends before a second
// one gets in.
func TestLockIsNeverStale(t *testing.T) {
	r, b := newDirServer(t)
	r.wantLocked("a second server")
	// Stopped, the first server cannot notice before the second one has tried.
	lock := filepath.Join(r.dir, "LOCK")
	r.whileStopped(func() {
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
		r.wantLocked("a second server without LOCK")
		if _, err := os.Lstat(lock); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the refused server made a LOCK: %v", err)
		}
	})
	r.wantMovedExit()
	r.start()
	if got := snapshotSeqs(r, b["user_id"].(string))[b["device_id"].(string)]; got != 2 {
		t.Errorf("the server stands at %d, 2 was acknowledged", got)
	}
	r.terminate()
}

// TestRefusedStartLeavesNoTrace: a server that cannot listen makes no directory, and changes
// nothing of one that is there.
func TestRefusedStartLeavesNoTrace(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	served, _ := newDirServer(t)
	served.terminate()
	for _, flag := range []string{"--listen=", "--admin-listen="} {
		for _, dir := range []string{filepath.Join(t.TempDir(), "a", "data"), served.dir} {
			before := testtree.Of(t, filepath.Dir(dir))
			r := &rig{t: t, dir: dir, env: secretsEnv, flags: []string{flag + busy.Addr().String()}}
			out, err := r.command().CombinedOutput()
			if err == nil || !strings.Contains(string(out), "address already in use") {
				t.Fatalf("%s: %v\n%s", flag, err, out)
			}
			if diff := before.Changes(testtree.Of(t, filepath.Dir(dir))); diff != "" {
				t.Errorf("%s: the refused start changed\n%s", flag, diff)
			}
			if filepath.Base(filepath.Dir(dir)) == "a" {
				if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: the refused start left a directory: %v", flag, err)
				}
			}
		}
	}
}

// TestStopOnAMovedDirectory: an orderly stop of a server whose directory was removed a moment ago
// is no success.
func TestStopOnAMovedDirectory(t *testing.T) {
	r, _ := newDirServer(t)
	r.removeDir()
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.wantMovedExit()
}

// wantPrivate checks that all that a directory holds is its owner's alone. A server that works on
// it makes and removes files meanwhile.
func wantPrivate(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		want := fs.FileMode(0o600)
		if n++; e.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has the permissions %v, not %v", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil || n < 8 {
		t.Errorf("%d files and directories in %s, %v", n, dir, err)
	}
}

// TestFilesAreTheOwnersAlone: whatever the umask, everything in a data directory and in a backup is
// closed to other users. The socket has the permissions of its flag.
func TestFilesAreTheOwnersAlone(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // of this process, which the server inherits
	r, _ := newDirServer(t, "--checkpoint-bytes=1")
	awaitCheckpoint(t, r, 1)
	wantPrivate(t, r.dir)
	backup := filepath.Join(t.TempDir(), "backup")
	if code, out, errs := tool(t, "backup", r.dir, backup); code != 0 {
		t.Fatalf("backup: %d %s%s", code, out, errs)
	}
	wantPrivate(t, backup)
	r.terminate()
	wantPrivate(t, r.dir)

	short, err := os.MkdirTemp("", "rc") // a socket's address is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	socket := filepath.Join(short, "s")
	startServer(t, "--listen=unix:"+socket)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
}

var readableLine = regexp.MustCompile(`level=WARN msg="every user .*mode=(\d+) mend="chmod -R go= (.*)"`)

// TestReadableDirectoryIsWarnedAbout, with the command that mends it, and left as it is.
func TestReadableDirectoryIsWarnedAbout(t *testing.T) {
	for mode, warned := range map[fs.FileMode]bool{0o755: true, 0o750: false, 0o700: false} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := errors.Join(os.Mkdir(dir, mode), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		r := startServerIn(t, dir)
		line := readableLine.FindStringSubmatch(r.logs())
		if warned != (line != nil) || warned && (line[1] != "0755" || line[2] != dir) {
			t.Errorf("of a directory with %v: %q\n%s", mode, line, r.logs())
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%v became %v, %v", mode, info.Mode(), err)
		}
	}
}
