package testproc

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"rollcall/internal/testlog"
)

// TestMain makes the test binary a program that prints, so that the tests need no other.
func TestMain(m *testing.M) {
	switch os.Getenv("TESTPROC_SAYS") {
	case "":
		os.Exit(m.Run())
	case "bye":
		os.Stderr.WriteString("bye 1\n")
		os.Exit(3)
	default:
		os.Stderr.WriteString("ready on 7\n")
		select {}
	}
}

func program(says string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TESTPROC_SAYS="+says)
	return cmd
}

func TestAwaitReadsWhatThisProcessPrinted(t *testing.T) {
	var out testlog.Output
	out.Write([]byte("ready on 6\n"))
	p := Start(t, program("ready"), &out)
	if m := p.Await(t, regexp.MustCompile(`ready on (\d)`)); m[1] != "7" {
		t.Errorf("matched %q", m)
	}
	p.Kill()
	if p.Err == nil || !strings.Contains(out.String(), "ready on 6\nready on 7\n") {
		t.Errorf("%v, printed %q", p.Err, &out)
	}
}

// recorder notes a failure instead of passing it on.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, _ ...any) {
	r.failure = format
	runtime.Goexit()
}

func TestAwaitFailsAtTheEnd(t *testing.T) {
	var out testlog.Output
	p := Start(t, program("bye"), &out)
	r, done := &recorder{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		p.Await(r, regexp.MustCompile(`hello`))
	}()
	<-done
	if !strings.Contains(r.failure, "ended without") || p.Cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("failure %q, %v", r.failure, p.Cmd.ProcessState)
	}
	if m := p.Await(t, regexp.MustCompile(`bye (\d)`)); m[1] != "1" {
		t.Errorf("matched %q", m)
	}
}
