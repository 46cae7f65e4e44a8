package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"
)

// A daemon reports its device until it is closed, and says offline then.
func ExampleStartDaemon() {
	server := httptest.NewServer(toyServer())
	defer server.Close()

	d, err := StartDaemon(DaemonOptions{
		URL:      server.URL,
		Token:    StaticToken("ingest"),
		UserID:   user,
		DeviceID: device,
		TTL:      30 * time.Second,
		Logger:   slog.Default(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	// …the program does what it is for…

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		fmt.Println(err) // the server shows the device online until its TTL is over
	}
	fmt.Println("closed")
	// Output: closed
}

// A watch yields each device as it is, then what changes. An error is an interruption: going on
// reconnects.
func ExampleWatch() {
	server := httptest.NewServer(toyServer())
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	online := map[string]bool{}
	for ev, err := range Watch(ctx, WatchOptions{
		URL:    server.URL,
		UserID: user,
		// a new one each time
		Token: func(context.Context) (string, error) { return "from-your-backend", nil },
	}) {
		if err != nil {
			slog.Warn("presence interrupted", "error", err)
			continue
		}
		if ev.Transition {
			online[ev.DeviceID] = ev.Status == Online
			fmt.Println(ev.DeviceID, ev.Status)
		}
		if ev.Status == Offline {
			break
		}
	}
	fmt.Println("online:", online[device])
	// Output:
	// b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d online
	// b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d offline
	// online: false
}

// toyServer accepts every heartbeat, and tells every stream of one device that beats twice and goes
// offline.
func toyServer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/daemon/presence/heartbeat",
		func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err != nil || !json.Valid(body) {
				http.Error(w, "Invalid JSON payload", http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	mux.HandleFunc("GET /api/v1/mobile/presence/stream",
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i, status := range []string{"online", "online", "offline"} {
				fmt.Fprintf(w, `data: {"schema_version":1,"user_id":%q,"device_id":%q,"status":%q,`+
					`"source":"toy","sent_at_ms":1,"seq":%d,"ttl_ms":30000}`+"\n\n",
					r.URL.Query().Get("user_id"), device, status, i+1)
			}
		})
	return mux
}
