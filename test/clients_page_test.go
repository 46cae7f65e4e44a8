package test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestClientsPage runs the programs of docs/clients.md: in each language the daemon reports a
// device, the watch sees it come, and go when the daemon is told to stop.
func TestClientsPage(t *testing.T) {
	t.Parallel()
	programs := pagePrograms(t, "../docs/clients.md")
	r := startServer(t)
	for _, language := range []string{"go", "js", "sh"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			user, device := uuid.NewString(), uuid.NewString()
			env := append(os.Environ(), "ROLLCALL_URL=http://"+r.addr, ingestTokenEnv+"="+ingestToken,
				"STREAM_TOKEN="+tokenFor(user, time.Hour), "USER_ID="+user, "DEVICE_ID="+device)
			watch, daemon := program(t, language, programs[language+" watch"]),
				program(t, language, programs[language+" daemon"])
			lines := run(t, watch, env)
			run(t, daemon, env)
			if got := receive(t, lines, "the device's coming"); got != device+" online" {
				t.Fatalf("the watch says %q", got)
			}
			daemon.Process.Signal(syscall.SIGTERM)
			for { // the curl watch tells of each heartbeat
				got := receive(t, lines, "the device's going")
				if got == device+" offline" {
					return
				}
				if got != device+" online" {
					t.Fatalf("the watch says %q", got)
				}
			}
		})
	}
}

var namedFence = regexp.MustCompile("(?ms)^```(\\w+ \\w+)\n(.*?)^```$")

// pagePrograms reads a page's blocks that have a name: language, then daemon, watch or another of
// wholePrograms.
func pagePrograms(t *testing.T, name string) map[string]string {
	t.Helper()
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for _, block := range namedFence.FindAllStringSubmatch(string(page), -1) {
		programs[block[1]] = block[2]
	}
	return programs
}

// program makes a command of a program's text.
func program(t *testing.T, language, text string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	switch language {
	case "go":
		out := filepath.Join(dir, "program")
		if msg, err := exec.Command("go", "build", "-o", out, write("main.go", text)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, msg)
		}
		return exec.Command(out)
	case "js":
		client, err := os.ReadFile("../client/ts/build/rollcall.js")
		if err != nil {
			t.Skip("needs node and `make client-ts`: ", err)
		}
		write("rollcall.js", string(client))
		write("package.json", `{"type":"module"}`)
		return exec.Command("node", write("program.js", text))
	}
	return exec.Command("bash", write("program.sh", text))
}

// run starts a program, ends it and what it started with the test, and hands on the lines that it
// prints.
func run(t *testing.T, cmd *exec.Cmd, env []string) <-chan string {
	t.Helper()
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	lines, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			if line := strings.TrimSpace(s.Text()); line != "" {
				lines <- line
			}
		}
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		cmd.Wait()
	})
	return lines
}
