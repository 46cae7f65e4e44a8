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

// A watch of a contact list keeps a Roster, which any goroutine may read.
func ExampleWatchMany() {
	server := httptest.NewServer(toyServer())
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var roster Roster
	for up, err := range WatchMany(ctx, WatchManyOptions{
		URL:     server.URL,
		UserIDs: []string{user, friend},
		Token:   StaticToken("from-your-backend"),
		Linger:  30 * time.Second,
		Roster:  &roster,
	}) {
		switch {
		case err != nil:
			slog.Warn("presence interrupted", "error", err)
		case up.User != nil:
			fmt.Println(up.User.UserID, up.User.Status)
		}
		if up.Sync != nil {
			break
		}
	}
	u, _ := roster.User(user)
	fmt.Println("devices online:", u.DevicesOnline)
	// Output:
	// 6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01 online
	// 0e5d6f3c-7a11-4b52-8c9e-3f2a1b0c9d8e offline
	// devices online: 2
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
	mux.HandleFunc("POST /api/v1/presence/stream",
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, userFrame(0, user, 2)+userFrame(0, friend, 0)+syncedFrame(1, false, 2))
		})
	return mux
}
