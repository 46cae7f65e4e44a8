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
	size, err := unix.FcntlInt(write.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write.Write(make([]byte, size)); err != nil { // all that the empty pipe holds
		t.Fatal(err)
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
