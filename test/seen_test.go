package test

import (
	"testing"

	"rollcall/internal/testtree"
)

// beforeSeen holds two data directories that the last server left that kept no last seen: closed in
// order, and killed. Users 1 to 5 are in a checkpoint; 11 to 15 are like them, in the log behind it
// (killed), or in the checkpoint that a start made of it (closed).
const beforeSeen = "../datadir/testdata/version2.tar.gz"

// estimated is what is made of these users' devices.
var estimated = map[string]int64{
	version1ID(1): 1795864721215, version1ID(11): 1795864723007, // online: when it was stored
	version1ID(2): 1795864721216, version1ID(12): 1795864723009, // expired: a ttl before that
	version1ID(3): 1795864716216, version1ID(13): 1795864718012, // left: when it was sent
	version1ID(4): 0, version1ID(14): 0, // was never online
	version1ID(5): 1795864721219, version1ID(15): 1795864723029, // left, and its clock is ahead
}

// TestLastSeenOfAnOlderDirectory: inspect and a server estimate when the devices of a directory
// were seen that did not keep it, the same at each start.
func TestLastSeenOfAnOlderDirectory(t *testing.T) {
	atLeisure(t)
	for _, kind := range []string{"closed", "killed"} {
		t.Run(kind, func(t *testing.T) {
			d := unpackOld(t, beforeSeen, kind)
			before := testtree.Of(t, d.dir)
			wantInspected := func(when string) {
				t.Helper()
				lines := inspect(t, 0, d.dir, "--devices=-1")["device"]
				if len(lines) != len(estimated) {
					t.Errorf("%s: %d devices", when, len(lines))
				}
				for _, l := range lines {
					user := l["user_id"].(string)
					if got := int64(l["last_seen_ms"].(float64)); got != estimated[user] {
						t.Errorf("%s: inspect says that %s was seen at %d, want %d", when, user, got,
							estimated[user])
					}
				}
			}
			wantInspected("before")
			if diff := before.Changes(testtree.Of(t, d.dir)); diff != "" {
				t.Errorf("inspect changed the directory:\n%s", diff)
			}
			var users []string
			for user := range estimated {
				users = append(users, user)
			}
			for range 3 {
				r, serves := d.trial(forgetNothing, "--checkpoint-interval=50ms")
				if !serves {
					t.Fatalf("it does not start:\n%s", r.logs())
				}
				for _, u := range r.query(everyUser(), users...).Users {
					got := int64(0)
					if u.LastSeenMS != nil {
						got = *u.LastSeenMS
					}
					online := u.UserID == version1ID(1) || u.UserID == version1ID(11)
					if got != estimated[u.UserID] || (u.DevicesOnline == 1) != online {
						t.Errorf("%s was seen at %d, want %d; %d devices are online", u.UserID, got,
							estimated[u.UserID], u.DevicesOnline)
					}
				}
				r.terminate()
				wantInspected("after a start")
			}
		})
	}
}
