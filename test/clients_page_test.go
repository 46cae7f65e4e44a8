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
// device, the watch and the list see it come, the query finds it, and both see it go when the
// daemon is told to stop; the gateway likewise.
func TestClientsPage(t *testing.T) {
	t.Parallel()
	programs := pagePrograms(t, "../docs/clients.md")
	if len(programs) != 15 {
		t.Fatalf("docs/clients.md has %d programs, want daemon, watch, list and query in go, js "+
			"and sh, a gateway in go and js, and a hook", len(programs))
	}
	r := startServer(t)
	for _, language := range []string{"go", "js", "sh"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			user, device := uuid.NewString(), uuid.NewString()
			env := append(os.Environ(), "ROLLCALL_URL=http://"+r.addr, ingestTokenEnv+"="+ingestToken,
				"STREAM_TOKEN="+tokenFor(user, time.Hour), "USER_ID="+user, "DEVICE_ID="+device)
			start := func(name string) (*exec.Cmd, <-chan string) {
				cmd := program(t, language, programs[language+" "+name])
				return cmd, run(t, cmd, env)
			}
			_, watch := start("watch")
			_, list := start("list")
			seen := func(lines <-chan string, want string) {
				t.Helper()
				// The curl watch tells of each heartbeat, a list of those who are offline too.
				for receive(t, lines, want) != want {
				}
			}
			seen(list, user+" offline")
			daemon, _ := start("daemon")
			seen(watch, device+" online")
			seen(list, user+" online")
			_, query := start("query")
			seen(query, user+" online")
			daemon.Process.Signal(syscall.SIGTERM)
			seen(watch, device+" offline")
			seen(list, user+" offline")
			if language == "sh" {
				return
			}
			gateway, _ := start("gateway")
			seen(list, user+" online")
			gateway.Process.Signal(syscall.SIGTERM)
			seen(list, user+" offline")
		})
	}
}

// TestClientsPageHook: the hook on the page is that of the example, which is tried in a browser.
func TestClientsPageHook(t *testing.T) {
	page := pagePrograms(t, "../docs/clients.md")["js hook"]
	hook, err := os.ReadFile("../client/ts/example/presence.js")
	if err != nil {
		t.Fatal(err)
	}
	if page != string(hook) {
		t.Error("the hook in docs/clients.md is not client/ts/example/presence.js: copy it")
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
