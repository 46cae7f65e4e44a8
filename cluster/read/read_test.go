package read

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus/bustest"
	"rollcall/engine"
	"rollcall/engine/broadcast"
)

// fakeEngine knows users, in the order of their devices.
type fakeEngine struct {
	users  map[uuid.UUID][]engine.Device
	recent []engine.ListedUser
	err    error
	takes  time.Duration // for each answer
}

func (e *fakeEngine) Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error {
	time.Sleep(e.takes)
	for _, id := range ids {
		u := engine.User{ID: id, Devices: e.users[id]}
		if limit -= len(u.Devices); limit < 0 {
			return engine.ErrTooManyDevicesAsked
		}
		sum(&u)
		fn(&u)
	}
	return e.err
}

func (e *fakeEngine) Devices(user, after uuid.UUID, limit int) ([]engine.Device, bool, error) {
	time.Sleep(e.takes)
	all := e.users[user]
	at := 0
	for at < len(all) && slices.Compare(all[at].Device[:], after[:]) <= 0 {
		at++
	}
	end := min(len(all), at+limit)
	return all[at:end], end < len(all), e.err
}

func (e *fakeEngine) Recent(context.Context, engine.UserQuery) ([]engine.ListedUser, error) {
	return e.recent, e.err
}

// fakeEdge holds users of others.
type fakeEdge struct {
	fakeEngine
	fresh   func(user uuid.UUID) bool
	streams int
	open    map[string]*stream
}

// stream is an open stream.
type stream struct {
	owner [16]byte
	users []uuid.UUID
	ends  int64
}

func (e *fakeEdge) Renew(name string, expiresNanos int64, fits broadcast.Fits) error {
	s := e.open[name]
	if s == nil {
		return broadcast.ErrNoStream
	}
	if !fits(s.owner, slices.Values(s.users)) {
		return broadcast.ErrUnfit
	}
	s.ends = expiresNanos
	return nil
}

func (e *fakeEdge) Fresh(user uuid.UUID) bool { return e.fresh(user) }

func (e *fakeEdge) Devices(user, after uuid.UUID, limit int) ([]engine.Device, bool) {
	page, more, _ := e.fakeEngine.Devices(user, after, limit)
	return page, more
}

func (e *fakeEdge) Streams(uuid.UUID) int { return e.streams }

// rig is nodes a, b and c, each of which owns the partition of its number: the first byte of a
// user's id.
type rig struct {
	readers [3]*Reader
	engines [3]*fakeEngine
	edges   [3]*fakeEdge
	net     *bustest.Net
	owners  [3]string
	sure    [3]bool
}

var names = [3]string{"a", "b", "c"}

func newRig() *rig {
	net := bustest.New()
	r := &rig{net: net, owners: names, sure: [3]bool{true, true, true}}
	for i, name := range names {
		r.engines[i] = &fakeEngine{users: map[uuid.UUID][]engine.Device{}}
		r.edges[i] = &fakeEdge{fresh: func(uuid.UUID) bool { return false }, streams: i + 1}
		r.readers[i] = New(net.Node(name), Partitions{
			Count: 3,
			Of:    func(user uuid.UUID) int { return int(user[0]) % 3 },
			Owner: func(p int) string { return r.owners[p] },
			Mine: func(p int) (Engine, func(), bool) {
				return r.engines[p], func() {}, r.owners[p] == name && r.sure[p]
			},
		}, r.edges[i], func() engine.Instant {
			return engine.Instant{Nanos: int64(i+1) * 1e15, WallMS: 1_700_000_000_000}
		})
	}
	return r
}

// add makes a user with devices in a partition.
func (r *rig) add(partition, devices int) uuid.UUID {
	user := uuid.New()
	user[0] = byte(3*(int(user[0])/3)) + byte(partition)
	if int(user[0])%3 != partition {
		user[0] = byte(partition)
	}
	r.engines[partition].users[user] = newDevices(user, devices)
	return user
}

func newDevices(user uuid.UUID, n int) (all []engine.Device) {
	for i := range n {
		d := engine.Device{
			HeartbeatAtMS: 1, OfflineAtMS: 2, UpdatedAtMS: 3, SeenAtMS: uint64(4 + i), LSN: 5,
		}
		d.User, d.Device = user, uuid.UUID{14: byte((i + 1) >> 8), 15: byte(i + 1)}
		d.Source, d.SentAtMS, d.Seq, d.TTLMS = "desktop", 6, 7, 8
		if i%2 == 0 {
			d.Status = engine.Online
		}
		all = append(all, d)
	}
	return all
}

// ask asks a node for users and returns how each is.
func (r *rig) ask(node int, limit int, ids ...uuid.UUID) (users []engine.User, err error) {
	err = r.readers[node].Users(ids, limit, func(u *engine.User) {
		users = append(users, clone(u))
	})
	return users, err
}

// TestUsers: a node answers for the users of all, in their order, as their owners would.
func TestUsers(t *testing.T) {
	r := newRig()
	var ids []uuid.UUID
	for i := range 12 {
		ids = append(ids, r.add(i%3, i))
	}
	ids = append(ids, uuid.UUID{1}) // not known
	for node := range 3 {
		users, err := r.ask(node, 1000, ids...)
		if err != nil {
			t.Fatal(err)
		}
		for i, u := range users {
			want := engine.User{ID: ids[i], Devices: r.engines[int(ids[i][0])%3].users[ids[i]]}
			sum(&want)
			if fmt.Sprint(u) != fmt.Sprint(want) {
				t.Errorf("node %d, user %d: %+v, not %+v", node, i, u, want)
			}
		}
		if len(users) != len(ids) {
			t.Errorf("%d users", len(users))
		}
	}
	if _, err := r.ask(0, 65, ids...); !errors.Is(err, engine.ErrTooManyDevicesAsked) {
		t.Errorf("66 devices: %v", err)
	}
}

// TestLargeAnswers are made of several, and a user that fits into none comes in pages.
func TestLargeAnswers(t *testing.T) {
	r := newRig()
	ids := []uuid.UUID{r.add(1, 3000), r.add(1, 3000), r.add(1, 0), r.add(1, 9000), r.add(1, 1)}
	users, err := r.ask(0, 20_000, ids...)
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range users {
		want := engine.User{ID: ids[i], Devices: r.engines[1].users[ids[i]]}
		sum(&want)
		if fmt.Sprint(u) != fmt.Sprint(want) {
			t.Errorf("user %d has %d of %d devices", i, len(u.Devices), len(want.Devices))
		}
	}
	var many []uuid.UUID
	for range 3 * maxAsked {
		many = append(many, r.add(1, 1))
	}
	if users, err = r.ask(0, 20_000, many...); err != nil || len(users) != len(many) {
		t.Errorf("%d users: %v", len(users), err)
	}
}

// TestSlowOwners: a question that needs very many answers has a time for all of them, and owners do
// not wait for each other.
func TestSlowOwners(t *testing.T) {
	for _, c := range []struct {
		name    string
		devices int           // of each of two users, of two owners
		takes   time.Duration // each answer
		want    time.Duration // all
		err     error
	}{
		{"few pages", 9000, time.Second - 1, usersTimeout - 1, nil},
		{"many pages", 20_000, time.Second, usersTimeout, engine.ErrNotMine},
		{"a late answer", 1, timeout + time.Second, timeout, engine.ErrNotMine},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig()
			began := time.Now()
			ids := []uuid.UUID{r.add(1, c.devices), r.add(2, c.devices)}
			r.engines[1].takes, r.engines[2].takes = c.takes, c.takes
			_, err := r.ask(0, 100_000, ids...)
			if took := time.Since(began); took > c.want || !errors.Is(err, c.err) {
				t.Errorf("%s: %v after %v", c.name, err, took)
			}
			time.Sleep(time.Minute) // the owners are done
		})
	}
}

// TestNoOwner: what no node can answer for is engine.ErrNotMine, for all of the question.
func TestNoOwner(t *testing.T) {
	r := newRig()
	ids := []uuid.UUID{r.add(0, 1), r.add(1, 1)}
	for name, spoil := range map[string]func(){
		"no owner is known":           func() { r.owners[1] = "" },
		"the owner is gone":           func() { r.owners[1] = "z" },
		"the owner is not sure":       func() { r.sure[1] = false },
		"another is meant":            func() { r.owners[1] = "c"; r.sure[1] = false },
		"the node itself is not sure": func() { r.sure[0] = false },
	} {
		r.owners, r.sure = names, [3]bool{true, true, true}
		spoil()
		if _, err := r.ask(0, 100, ids...); !errors.Is(err, engine.ErrNotMine) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "the node itself is not sure" {
			continue
		}
		_, _, err := r.readers[0].Devices(ids[1], uuid.Nil, 1)
		if !errors.Is(err, engine.ErrNotMine) {
			t.Errorf("%s: a page: %v", name, err)
		}
	}
	r.owners, r.sure = names, [3]bool{true, true, true}
	r.engines[1].err = errors.New("the log has failed")
	if _, err := r.ask(0, 100, ids...); err == nil || errors.Is(err, engine.ErrNotMine) {
		t.Errorf("the owner failed: %v", err)
	}
}

// TestFreshEdge: a user whom a stream here follows is answered here, as long as it is fresh.
func TestFreshEdge(t *testing.T) {
	r := newRig()
	user := r.add(1, 2)
	r.edges[0].users = map[uuid.UUID][]engine.Device{user: newDevices(user, 1)}
	fresh := 0
	r.edges[0].fresh = func(uuid.UUID) bool { fresh--; return fresh >= 0 }
	for asks, want := range []int{2, 2, 1} { // fresh never, before, before and after
		fresh = asks
		users, err := r.ask(0, 100, user)
		if err != nil || len(users[0].Devices) != want {
			t.Errorf("fresh %d times: %v, %v", asks, users, err)
		}
		fresh = asks
		page, _, err := r.readers[0].Devices(user, uuid.Nil, 100)
		if err != nil || len(page) != want {
			t.Errorf("fresh %d times: a page of %d: %v", asks, len(page), err)
		}
	}
}

func TestDevices(t *testing.T) {
	r := newRig()
	user := r.add(1, 25)
	for node := range 3 {
		var all []engine.Device
		var after uuid.UUID
		for more := true; more; after = all[len(all)-1].Device {
			page, others, err := r.readers[node].Devices(user, after, 10)
			if err != nil {
				t.Fatal(err)
			}
			all, more = append(all, page...), others
		}
		if fmt.Sprint(all) != fmt.Sprint(r.engines[1].users[user]) {
			t.Errorf("node %d: %v", node, all)
		}
	}
}

func TestStreams(t *testing.T) {
	if n := newRig().readers[1].Streams(uuid.New()); n != 1+2+3 {
		t.Errorf("%d streams", n)
	}
}

// TestRenew: a stream is renewed through any node, by what its holder tells of it; a node that does
// not answer may have it.
func TestRenew(t *testing.T) {
	r := newRig()
	name := "0123456789abcdef01234567"
	s := &stream{owner: [16]byte{7}, users: []uuid.UUID{{1}, {2}, {3}}}
	r.edges[1].open = map[string]*stream{name: s}
	const hour = int64(3600e9)
	for node := range 3 {
		begins := int64(node+1) * 1e15
		unfit := func([16]byte, func(func(uuid.UUID) bool)) bool { return false }
		if err := r.readers[node].Renew(name, begins+hour, unfit); err != broadcast.ErrUnfit {
			t.Errorf("node %d: of another token: %v", node, err)
		}
		s.ends = 1
		fits := func(owner [16]byte, users func(func(uuid.UUID) bool)) bool {
			return owner == s.owner && slices.Equal(slices.Collect(users), s.users)
		}
		for _, until := range []int64{begins + hour, 0} {
			want := until
			if until > 0 {
				want = 2e15 + hour // by the holder's clock
			}
			if err := r.readers[node].Renew(name, until, fits); err != nil || s.ends != want {
				t.Errorf("node %d: ends at %d, not %d: %v", node, s.ends, want, err)
			}
		}
		err := r.readers[node].Renew("another89abcdef012345678", 0, fits)
		if err != broadcast.ErrNoStream {
			t.Errorf("node %d: no stream: %v", node, err)
		}
	}
	r.net.Cut("b", "a")
	if err := r.readers[0].Renew(name, 0, nil); !errors.Is(err, engine.ErrNotMine) {
		t.Errorf("the holder does not answer: %v", err)
	}
}

// TestRecent merges what the nodes know, and says so when a partition is missing.
func TestRecent(t *testing.T) {
	r := newRig()
	var want []engine.ListedUser
	for i := range 9 {
		u := engine.ListedUser{ID: uuid.New(), ChangedAtMS: uint64(100 - i), Source: "desktop"}
		want = append(want, u)
		e := r.engines[i%3]
		e.recent = append(e.recent, u)
	}
	r.engines[0].recent = append(r.engines[0].recent, want[1]) // its partition has moved
	id, _ := engine.ParseIDPrefix("")
	got, err := r.readers[2].Recent(t.Context(), engine.UserQuery{ID: id, Limit: 7})
	if err != nil || !slices.Equal(got, want[:7]) {
		t.Errorf("%v: %v", got, err)
	}
	r.owners[0] = ""
	if _, err = r.readers[2].Recent(t.Context(), engine.UserQuery{Limit: 7}); !errors.Is(err,
		engine.ErrNotMine) {
		t.Errorf("a partition is missing: %v", err)
	}
}

// TestTooMuchIsNotAsked: what would be gathered for an answer is bounded, whatever a node asks.
func TestTooMuchIsNotAsked(t *testing.T) {
	for limit, taken := range map[int]bool{maxLimit: true, maxLimit + 1: false} {
		_, _, err := readUsers(appendUsers(nil, limit, nil)[2:])
		if (err == nil) != taken {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// FuzzQuestion: no question breaks a node, and no answer is longer than it may be.
func FuzzQuestion(f *testing.F) {
	user := uuid.UUID{1}
	f.Add(appendUsers(nil, 10, []uuid.UUID{user, {}}))
	f.Add(appendPage(nil, user, uuid.Nil, 10))
	f.Add(append([]byte{format, byte(opStreams)}, user[:]...))
	f.Add(append([]byte{format, byte(opStream)}, "0123456789abcdef01234567"...))
	f.Add(appendRenew(nil, "0123456789abcdef01234567", 5))
	recent, _ := appendRecent(nil, engine.UserQuery{Limit: 3})
	f.Add(recent)
	r := newRig()
	r.engines[1].users[user] = newDevices(user, 30)
	f.Fuzz(func(t *testing.T, question []byte) {
		if n := len(r.readers[1].answer(question)); n < 2 || n > maxAnswer+2 {
			t.Errorf("an answer has %d bytes", n)
		}
	})
}

// FuzzDevices: what is read of an answer is what is written.
func FuzzDevices(f *testing.F) {
	f.Add(appendDevices(nil, newDevices(uuid.Nil, 3)))
	f.Fuzz(func(t *testing.T, text []byte) {
		devices, rest, err := readDevices(text, uuid.Nil)
		if err != nil {
			return
		}
		if again := append(appendDevices(nil, devices), rest...); !slices.Equal(again, text) {
			t.Errorf("%x became %x", text, again)
		}
	})
}
