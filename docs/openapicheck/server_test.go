package openapicheck

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. It is not a claim about speed.
const patience = 30 * time.Second

const (
	ingestToken = "PRESENCE_DO_INGEST_TOKEN=ingest"
	signingKey  = "PRESENCE_DO_TOKEN_SIGNING_KEY=signing"
)

var serving = regexp.MustCompile(`msg=serving .*listen=(\S+) admin=(\S+)`)

// binary is what `make build` made, or $ROLLCALL_BINARY.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ROLLCALL_BINARY")
	if path == "" {
		path = "../../bin/rollcall"
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make openapi`, which builds it", err)
	}
	return path
}

// server is one running process.
type server struct {
	public, admin string
	terminate     func()
}

// serve starts a server with the given environment and flags; it ends with the test.
func serve(t *testing.T, env []string, flags ...string) server {
	t.Helper()
	cmd := exec.Command(binary(t), append([]string{"serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--data-dir=" + t.TempDir()}, flags...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	found, done := make(chan []string, 1), make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if m := serving.FindStringSubmatch(lines.Text()); m != nil {
				found <- m
			}
		}
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-done; cmd.Wait() })
	select {
	case m := <-found:
		return server{m[1], m[2], sync.OnceFunc(func() { cmd.Process.Signal(syscall.SIGTERM) })}
	case <-done:
		t.Fatalf("the server did not start:\n%s", log.String())
	case <-time.After(patience):
		t.Fatal("the server does not serve")
	}
	return server{}
}

// token mints a stream token with the command of the product.
func mint(t *testing.T, user string) string {
	t.Helper()
	cmd := exec.Command(binary(t), "token", "--user", user)
	cmd.Env = append(os.Environ(), signingKey)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// dial opens a connection that gives up in time.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}
