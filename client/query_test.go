package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func idOf(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", i) }

// TestQuery: a few users are asked for by GET, more by POST, more than one request may name by
// several; the answer is in the order asked.
func TestQuery(t *testing.T) {
	for n, want := range map[int]string{
		0: "", 1: "GET", maxByGet: "GET", maxByGet + 1: "POST", 1000: "POST", 2001: "POST POST GET",
	} {
		inFakeTime(t, func(t *testing.T) {
			var asked []string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Method)
				body, err := io.ReadAll(r.Body)
				if err != nil || r.Header.Get("Authorization") != "Bearer token" {
					t.Errorf("%v %v", r.Header, err)
				}
				ids := r.URL.Query()["user_id"]
				if r.Method == "POST" {
					list := strings.TrimSuffix(strings.TrimPrefix(string(body), `{"user_ids":["`), `"]}`)
					ids = strings.Split(list, `","`)
				}
				paths := map[string]string{"GET": askPath, "POST": queryPath}
				if r.URL.Path != paths[r.Method] {
					t.Errorf("%s %s", r.Method, r.URL.Path)
				}
				for i, id := range ids {
					ids[i] = fmt.Sprintf(`{"user_id":%q,"status":"online","devices_online":1,`+
						`"last_seen_ms":7,"devices":[{"schema_version":1,"user_id":%q,"device_id":"d",`+
						`"status":"online","source":"s","sent_at_ms":1,"seq":2,"ttl_ms":3,`+
						`"last_heartbeat_ms":4,"last_offline_ms":null,"updated_at_ms":6}]}`, id, id)
				}
				fmt.Fprintf(w, `{"users":[%s]}`, strings.Join(ids, ","))
			})
			o := QueryOptions{URL: "http://rollcall/", Token: StaticToken("token"), HTTPClient: c}
			for i := range n {
				o.UserIDs = append(o.UserIDs, strings.ToUpper(idOf(n-i)))
			}
			users, err := Query(t.Context(), o)
			if err != nil || len(users) != n || strings.Join(asked, " ") != want {
				t.Fatalf("%d users: %d, %v, asked by %v", n, len(users), err, asked)
			}
			for i, u := range users {
				if u.UserID != idOf(n-i) || u.Status != Online || u.LastSeenMS != 7 ||
					len(u.Devices) != 1 || u.Devices[0].Seq != 2 || u.Devices[0].UpdatedAtMS != 6 ||
					u.Devices[0].LastHeartbeatMS != 4 || u.Devices[0].LastOfflineMS != 0 {
					t.Fatalf("user %d: %+v", i, u)
				}
			}
		})
	}
}

// TestQueryFails: by what is wrong, by what the server says, and within bounds (K10).
func TestQueryFails(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		answer := func(w http.ResponseWriter) { fmt.Fprint(w, "{}") }
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { answer(w) })
		ask := func(change func(o *QueryOptions)) error {
			o := QueryOptions{URL: "http://rollcall", Token: StaticToken("token"), HTTPClient: c,
				UserIDs: []string{user}}
			change(&o)
			_, err := Query(t.Context(), o)
			return err
		}
		unchanged := func(*QueryOptions) {}
		for want, change := range map[string]func(o *QueryOptions){
			"want http://HOST":  func(o *QueryOptions) { o.URL = "" },
			"UserIDs[0]":        func(o *QueryOptions) { o.UserIDs = []string{"bob"} },
			"Token is missing":  func(o *QueryOptions) { o.Token = nil },
			"0 users in the":    unchanged,
			"bearer token":      func(o *QueryOptions) { o.Token = StaticToken("") },
			"larger than MaxAn": func(o *QueryOptions) { o.MaxAnswerBytes = 1 },
		} {
			if err := ask(change); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		answer = func(w http.ResponseWriter) { fmt.Fprint(w, "<p>") }
		if err := ask(unchanged); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("a page: %v", err)
		}
		answer = func(w http.ResponseWriter) { (&connection{w, nil}).refuse(403) }
		var status *StatusError
		if err := ask(unchanged); !errors.As(err, &status) || status.Status != 403 {
			t.Errorf("a refusal: %v", err)
		}
	})
}
