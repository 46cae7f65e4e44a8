package test

import (
	"bufio"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rollcall/internal/testwait"
)

// TestSecondSignalPastStandardError: a second signal ends the process though what reads its
// standard error has stopped reading, so that the line about the first one cannot be written.
func TestSecondSignalPastStandardError(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir(), env: secretsEnv, flags: []string{"--sync=never"}}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	cmd := r.command()
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	lines := bufio.NewReader(read)
	for line := ""; !strings.Contains(line, "msg=serving"); {
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	// Up to the last page, whatever the server has said since: a pipe that can be written to has
	// room for one.
	for room := []unix.PollFd{{Fd: int32(write.Fd()), Events: unix.POLLOUT}}; ; {
		n, err := unix.Poll(room, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if _, err := write.Write(make([]byte, os.Getpagesize())); err != nil {
			t.Fatal(err)
		}
	}
	// Signals that come too close together are one.
	testwait.Until(t, "signals end the process", func() bool {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-exited:
			if err == nil {
				t.Error("exit status 0")
			}
			return true
		default:
			return false
		}
	})
}
