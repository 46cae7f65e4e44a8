package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// probesTimeout is how long a probe may take to come and to be answered.
const probesTimeout = 5 * time.Second

// answerProbes answers probes on the operators' listener, and nothing else, until stop is called:
// a node that opens its logs is alive, not ready, and says so. The listener stays open.
func answerProbes(ln *net.TCPListener, ready func() error) (stop func()) {
	mux := http.NewServeMux()
	text := func(w http.ResponseWriter, status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text + "\n"))
	}
	alive := func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") }
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		why := "starting"
		if err := ready(); err != nil {
			why = err.Error()
		}
		text(w, http.StatusServiceUnavailable, why)
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: probesTimeout, WriteTimeout: probesTimeout,
		MaxHeaderBytes: 16 << 10,
	}
	server.SetKeepAlivesEnabled(false) // the next request is for the whole server
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(borrowed{ln}) })
	return func() {
		_ = server.Close()
		serving.Wait()
		_ = ln.SetDeadline(time.Time{})
	}
}

// borrowed is a listener that Close leaves open: it ends an Accept.
type borrowed struct{ *net.TCPListener }

// Close implements net.Listener.
func (b borrowed) Close() error { return b.SetDeadline(time.Unix(1, 0)) }
