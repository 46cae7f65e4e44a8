package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestAnswerProbes: probes are answered until the server is there, on the same listener.
func TestAnswerProbes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ask := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	stop := answerProbes(ln.(*net.TCPListener), func() error { return errors.New("1 of 3 nodes") })
	for path, want := range map[string]int{
		"/livez": 200, "/healthz": 200, "/readyz": 503, "/metrics": 503, "/clusterz": 503,
	} {
		status, body := ask(path)
		if status != want || want == 503 && body != "1 of 3 nodes\n" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	stop()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})}
	go server.Serve(ln)
	defer server.Close()
	if status, _ := ask("/livez"); status != http.StatusTeapot {
		t.Errorf("the server that comes next: %d", status)
	}
}
