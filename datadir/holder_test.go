//go:build linux || darwin

package datadir

import (
	"bufio"
	"os"
	"os/exec"
	"testing"

	"rollcall/wal"
)

// lockedDir names the directory that a child process locks.
const lockedDir = "ROLLCALL_TEST_LOCK"

// TestHolder: the process that holds the lock, as another one sees it.
func TestHolder(t *testing.T) {
	if dir := os.Getenv(lockedDir); dir != "" { // the child: lock, say so, wait for the parent
		l, err := wal.Open(dir, wal.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		l.Close()
		return
	}
	dir := t.TempDir()
	want := func(what string, pid int) {
		t.Helper()
		if got, err := Holder(dir); err != nil || got != pid {
			t.Errorf("%s: held by %d, %v, want %d", what, got, err, pid)
		}
	}
	want("never locked", 0)
	child := exec.Command(os.Args[0], "-test.run=^TestHolder$")
	child.Env = append(os.Environ(), lockedDir+"="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Errorf("the child says %q, %v", line, err)
	}
	want("locked by a child", child.Process.Pid)
	in.Close()
	_ = child.Wait()
	want("unlocked", 0)
	if _, err := Holder("\x00"); err == nil {
		t.Error("a directory that cannot be opened has a holder")
	}
}
