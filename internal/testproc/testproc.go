// Package testproc runs programs in tests and reads what they print while they run. It counts the
// descriptors of the test itself, too.
package testproc

import (
	"os/exec"
	"regexp"
	"testing"

	"rollcall/internal/testlog"
	"rollcall/internal/testwait"
)

// Process is a program that a test started.
type Process struct {
	Cmd    *exec.Cmd
	Exited <-chan struct{} // closed when the process has ended
	Err    error           // how it ended; read it after Exited

	printed *testlog.Output
	from    int // length of printed when this process started
}

// Start runs a command whose standard error goes to printed, behind what earlier processes printed.
// The test's end kills the process.
func Start(t testing.TB, cmd *exec.Cmd, printed *testlog.Output) *Process {
	t.Helper()
	exited := make(chan struct{})
	p := &Process{Cmd: cmd, Exited: exited, printed: printed, from: len(printed.String())}
	cmd.Stderr = printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Err = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(p.Kill)
	return p
}

// Await returns the match of a pattern and its groups once the process has printed it. It fails the
// test when the process ends without.
func (p *Process) Await(t testing.TB, pattern *regexp.Regexp) (match []string) {
	t.Helper()
	testwait.Until(t, "the process prints "+pattern.String(), func() bool {
		ended := p.ended() // before the text is read: nothing is printed after the end
		match = pattern.FindStringSubmatch(p.printed.String()[p.from:])
		return match != nil || ended
	})
	if match == nil {
		t.Fatalf("%s ended without printing %v: %v\n%s", p.Cmd.Path, pattern, p.Err, p.printed)
	}
	return match
}

func (p *Process) ended() bool {
	select {
	case <-p.Exited:
		return true
	default:
		return false
	}
}

// Kill is kill -9; it returns when the process has ended.
func (p *Process) Kill() {
	p.Cmd.Process.Kill()
	<-p.Exited
}
