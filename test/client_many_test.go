package test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/client"
	"rollcall/internal/testwait"
)

// The Go client's contact lists and gateway against the server as it is, as client_test.go has the
// stream of one user.

// mintList returns tokens of a user with contacts.
func mintList(user string, ttl time.Duration, contacts ...string) client.TokenFunc {
	return func(context.Context) (string, error) {
		o := client.MintOptions{UserID: user, Contacts: contacts, TTL: ttl}
		return client.Mint(signingKey, o)
	}
}

// watchList follows a list until the test ends, and hands on what the watch tells.
func watchList(t *testing.T, o client.WatchManyOptions) (updates <-chan client.Update,
	interruptions <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	ups, errs, done := make(chan client.Update, 1000), make(chan error, 1000), make(chan struct{})
	o.MaxBackoff = time.Second
	go func() {
		defer close(done)
		for up, err := range client.WatchMany(ctx, o) {
			if err != nil {
				errs <- err
			} else {
				ups <- up
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ups, errs
}

// awaitUpdate reads updates until ok says yes.
func awaitUpdate(t *testing.T, updates <-chan client.Update, what string,
	ok func(client.Update) bool) client.Update {
	t.Helper()
	for {
		if up := receive(t, updates, what); ok(up) {
			return up
		}
	}
}

func isSync(up client.Update) bool { return up.Sync != nil }

func userIs(user string, devices int) func(client.Update) bool {
	return func(up client.Update) bool {
		return up.User != nil && up.User.UserID == user && up.User.DevicesOnline == devices &&
			(up.User.Status == client.Online) == (devices > 0)
	}
}

// TestClientListOverRestarts: a contact list goes on where it was when the server is killed or
// drains, and is told only what changed meanwhile.
func TestClientListOverRestarts(t *testing.T) {
	t.Parallel()
	r := startServer(t, "--drain-timeout=100ms")
	f := forward(t, r.addr)
	me, friend, phone := uuid.NewString(), uuid.NewString(), uuid.NewString()
	seq := 0
	beat := func(user, status string) {
		t.Helper()
		seq++
		r.mustBeat(newBeat().with("user_id", user).with("device_id", phone).with("status", status).
			with("seq", seq).with("ttl_ms", 600_000))
	}
	beat(friend, "online")
	var roster client.Roster
	updates, interruptions := watchList(t, client.WatchManyOptions{
		URL: "http://" + f.Addr().String(), Token: mintList(me, time.Hour, friend), Roster: &roster})
	awaitUpdate(t, updates, "the friend", userIs(friend, 1))
	if first := awaitUpdate(t, updates, "synced", isSync); first.Sync.Resumed ||
		first.Sync.Users != 2 || roster.State() != client.Synced {
		t.Errorf("%+v, %v", first.Sync, roster.State())
	}
	status := map[bool]string{true: "online", false: "offline"}
	for i, stop := range []func(){r.kill, r.terminate, r.kill} {
		stop()
		receive(t, interruptions, "an interruption")
		if got := roster.State(); got != client.Interrupted {
			t.Errorf("without a server: %v", got)
		}
		r.start()
		beat(me, status[i%2 == 0]) // before the client is back
		f.to.Store(r.addr)
		var told []string
		for {
			up := receive(t, updates, "synced again")
			if up.Sync != nil {
				if !up.Sync.Resumed {
					t.Errorf("restart %d: not resumed", i)
				}
				break
			}
			told = append(told, fmt.Sprintf("%+v", up.User))
			if !userIs(me, (i+1)%2)(up) {
				t.Errorf("restart %d: told %+v", i, up.User)
			}
		}
		if len(told) != 1 {
			t.Errorf("restart %d: told %v, want the one change", i, told)
		}
		for len(interruptions) > 0 {
			<-interruptions
		}
	}
	beat(friend, "offline")
	last := awaitUpdate(t, updates, "the friend's going", userIs(friend, 0))
	if got, _ := roster.User(friend); got != *last.User || got.LastSeenMS == 0 {
		t.Errorf("the roster has %+v, told %+v", got, last.User)
	}
	users, err := client.Query(t.Context(), client.QueryOptions{URL: "http://" + r.addr,
		Token: mintList(me, time.Hour, friend), UserIDs: []string{friend, me}})
	if err != nil || len(users) != 2 || users[0].LastSeenMS != last.User.LastSeenMS ||
		users[0].Status != client.Offline || users[1].Status != client.Online ||
		len(users[1].Devices) != 1 || users[1].Devices[0].DeviceID != phone {
		t.Errorf("a query says %+v, %v", users, err)
	}
}

// TestClientRenewsInPlace: both watches outlive their tokens on one stream each.
func TestClientRenewsInPlace(t *testing.T) {
	t.Parallel()
	r := startServer(t)
	me := uuid.NewString()
	minted := make(chan bool, 1000)
	counted := func(token client.TokenFunc) client.TokenFunc {
		return func(ctx context.Context) (string, error) {
			minted <- true
			return token(ctx)
		}
	}
	const ttl = 4 * time.Second // a busy machine may be late by a fifth of it
	updates, interruptions := watchList(t, client.WatchManyOptions{URL: "http://" + r.addr,
		UserIDs: []string{me}, Token: counted(mintList(me, ttl))})
	events, moreInterruptions := watchUser(t, r.addr, me, counted(mint(me, ttl)))
	awaitUpdate(t, updates, "synced", isSync)
	for range 8 {
		receive(t, minted, "a renewal")
	}
	r.mustBeat(newBeat().with("user_id", me))
	awaitUpdate(t, updates, "online, on the renewed stream", userIs(me, 1))
	receive(t, events, "the heartbeat, on the renewed stream")
	if n := r.gauge(t, "rollcall_streams_opened_total"); n != 2 {
		t.Errorf("%g streams were opened, want 2", n)
	}
	if len(interruptions)+len(moreInterruptions) > 0 {
		t.Error("interrupted")
	}
}

// TestClientAnotherHistory: a server whose directory is another one tells everything anew, and what
// it does not know is gone.
func TestClientAnotherHistory(t *testing.T) {
	t.Parallel()
	r, other := startServer(t), startServer(t)
	f := forward(t, r.addr)
	me := uuid.NewString()
	r.mustBeat(newBeat().with("user_id", me))
	var roster client.Roster
	updates, _ := watchList(t, client.WatchManyOptions{URL: "http://" + f.Addr().String(),
		Token: mintList(me, time.Hour), View: client.ViewDevices, Roster: &roster})
	awaitUpdate(t, updates, "synced", isSync)
	if u, _ := roster.User(me); u.DevicesOnline != 1 {
		t.Errorf("the roster has %+v", u)
	}
	f.to.Store(other.addr)
	r.kill()
	gone := awaitUpdate(t, updates, "what is gone", func(up client.Update) bool { return up.Gone })
	if gone.Device == nil || gone.Device.Status != client.Offline || !gone.Device.Transition {
		t.Errorf("gone is %+v", gone.Device)
	}
	if s := awaitUpdate(t, updates, "synced", isSync); s.Sync.Resumed {
		t.Error("resumed from another history")
	}
	if users := roster.Users(); len(users) != 0 {
		t.Errorf("the roster has %+v", users)
	}
}

// TestClientListRefused: a list that the token does not cover is told, as is one that is too long.
func TestClientListRefused(t *testing.T) {
	t.Parallel()
	r := startServer(t, "--max-users-per-stream=2")
	me := uuid.NewString()
	for n, want := range map[int]int{1: 403, 3: 413} {
		var ids []string
		for range n {
			ids = append(ids, uuid.NewString())
		}
		ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
		defer cancel()
		for _, err := range client.WatchMany(ctx, client.WatchManyOptions{URL: "http://" + r.addr,
			UserIDs: ids, Token: mintList(me, time.Hour)}) {
			var refusal *client.StatusError
			if !errors.As(err, &refusal) || refusal.Status != want {
				t.Errorf("a list of %d: %v, want a %d", n, err, want)
			}
			break
		}
	}
}

// TestClientGateway: a gateway's devices are online over a kill of the server, and offline when it
// closes.
func TestClientGateway(t *testing.T) {
	t.Parallel()
	r := startServer(t)
	f := forward(t, r.addr)
	g, err := client.StartGateway(client.GatewayOptions{URL: "http://" + f.Addr().String(),
		Token: client.StaticToken(ingestToken), TTL: 30 * time.Second,
		Interval: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	user := uuid.NewString()
	const n = 300
	updates, _ := watchList(t, client.WatchManyOptions{URL: "http://" + f.Addr().String(),
		Token: mintList(user, time.Hour)})
	awaitUpdate(t, updates, "synced", isSync)
	for range n {
		if err := g.Set(user, uuid.NewString(), client.Online); err != nil {
			t.Fatal(err)
		}
	}
	awaitUpdate(t, updates, "all online", userIs(user, n))
	r.kill()
	r.start()
	f.to.Store(r.addr)
	if s := awaitUpdate(t, updates, "synced", isSync); !s.Sync.Resumed {
		t.Error("not resumed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
	defer cancel()
	if err := g.Close(ctx); err != nil {
		t.Error(err)
	}
	awaitUpdate(t, updates, "all offline", userIs(user, 0))
}
