package loadgen

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// listRun is smallRun with lists instead of streams: 8 lists of 5 of 12 users with 2 devices each.
func listRun(t testing.TB, s *fakeServer) Options {
	o := smallRun(t, s)
	o.Users, o.DevicesPerUser, o.StreamsPerUser = 12, 2, 0
	o.Lists, o.ListSize, o.ListView, o.ListAuth = 8, 5, "both", "both"
	o.ListToken = testListToken
	return o
}

// TestGoodListsPass runs every feature of lists against a server without faults.
func TestGoodListsPass(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"steady":   func(o *Options) {},
		"resuming": func(o *Options) { o.Churn = 60 },
		"fresh":    func(o *Options) { o.Churn, o.FreshShare = 60, 0.5 },
		"storm":    func(o *Options) { o.Scenario, o.Warmup = "reconnect-storm", time.Second },
		"flips": func(o *Options) {
			o.TTL, o.FlipShare, o.Duration, o.Churn = 400*time.Millisecond, 60, 3*time.Second, 20
		},
		"short": func(o *Options) { o.TTL, o.Churn = 100*time.Millisecond, 20 },
		"linger": func(o *Options) {
			o.TTL, o.ListLinger, o.Duration = 100*time.Millisecond, 150*time.Millisecond,
				3*time.Second
		},
		"renewals": func(o *Options) {
			o.ListTokenTTL, o.Duration, o.Churn = time.Second, 3*time.Second, 10
		},
		"workers": func(o *Options) {
			o.Workers, o.Users, o.ListPopulation, o.ListSkew = 3, 40, 30, 1
		},
		"slow": func(o *Options) { o.SlowShare = 0.5 },
		"with streams": func(o *Options) {
			o.StreamsPerUser, o.Churn = 1, 30
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var o Options
			rep := mustBeClean(t, func() *Report {
				s := startFake(t, fault{})
				o = listRun(t, s)
				change(&o)
				s.linger = o.ListLinger
				return mustRun(t, o)
			})
			if c := rep.Verdict.Checked; c.Events == 0 || c.Lists == 0 || c.Resumed == 0 ||
				o.ListTokenTTL > 0 && c.Renewals == 0 {
				t.Errorf("nothing was checked: %+v", c)
			}
			if l := rep.Lists; l == nil || l.Snapshots == 0 || l.Resumes == 0 ||
				l.SnapshotBytes <= l.ResumeBytes && name == "steady" {
				t.Errorf("%+v", rep.Lists)
			}
		})
	}
}

// TestOracleFindsEachFaultOfLists shows for each rule a server that breaks it on a list.
func TestOracleFindsEachFaultOfLists(t *testing.T) {
	flipping := func(o *Options) { o.TTL, o.ListView = 100*time.Millisecond, "users" }
	lingering := func(o *Options) {
		flipping(o)
		o.ListLinger, o.Duration = 400*time.Millisecond, 2*time.Second
	}
	devices := func(o *Options) { o.ListView = "devices" }
	users := func(o *Options) { o.ListView = "users" }
	for _, c := range []struct {
		name   string
		fault  fault
		change func(*Options)
		want   rule
		and    []rule // may follow from it
	}{
		{"drops the last events", fault{dropLast: true}, devices, lost, []rule{unequal}},
		{"drops an event", fault{dropOne: true}, func(o *Options) {
			o.ListView, o.NoConflation = "devices", true
		}, skippedFrame, nil},
		{"doubles events", fault{double: true}, devices, doubled, nil},
		{"goes back", fault{back: true}, devices, backwards, nil},
		{"invents heartbeats", fault{invent: true}, devices, invented, []rule{lost, unequal}},
		{"writes events in its own way", fault{spaces: true}, devices, brokenProtocol,
			[]rule{lost, unequal}},
		{"expires early", fault{expireEarly: true}, func(o *Options) {
			o.ListView, o.Scenario, o.SilentShare, o.TTL = "devices", "silent", 0.5,
				300*time.Millisecond
		}, expiredEarly, nil},
		{"leaves out a user", fault{list: listFault{leaveOut: true}}, func(o *Options) {
			o.ListView, o.Churn, o.FreshShare = "devices", 60, 1
		}, lost, []rule{unequal}},
		{"leaves out a user, view=users", fault{list: listFault{leaveOut: true}}, users, lost,
			[]rule{unequal, miscounted}},
		{"sends all to a cursor", fault{list: listFault{resumeAll: true}}, devices, repeated, nil},
		{"sends all to a cursor, view=users", fault{list: listFault{resumeAll: true}}, users,
			repeated, nil},
		{"sends nothing to a cursor", fault{list: listFault{resumeNothing: true}},
			func(o *Options) { o.ListView, o.Churn = "devices", 100 }, lost, []rule{unequal}},
		{"sends nothing to a cursor, view=users", fault{list: listFault{resumeNothing: true}},
			func(o *Options) {
				flipping(o)
				o.Churn, o.NoConflation = 100, true
			}, skippedFrame, []rule{unequal, miscounted}},
		{"refuses its cursors", fault{list: listFault{refuseCursors: true}}, nil, notResumed, nil},
		{"counts a user more", fault{list: listFault{miscount: true}}, nil, brokenProtocol, nil},
		{"never says synced", fault{list: listFault{neverSynced: true}}, nil, lost, nil},
		{"says synced twice", fault{list: listFault{syncedTwice: true}}, nil, doubled, nil},
		{"has ids of two words", fault{list: listFault{badID: true}}, nil, brokenProtocol,
			[]rule{lost, unequal, miscounted}},
		{"has events without id", fault{list: listFault{noID: true}}, devices, brokenProtocol,
			[]rule{lost, unequal}},
		{"tells of strangers", fault{list: listFault{stranger: true}}, nil, brokenProtocol,
			[]rule{lost, unequal, miscounted}},
		{"tells of the other view", fault{list: listFault{otherView: true}}, nil, brokenProtocol,
			[]rule{lost, unequal, miscounted}},
		{"tells a user without a change", fault{list: listFault{userRepeat: true}}, users, doubled,
			nil},
		{"counts a device more", fault{list: listFault{userDrift: true}}, users, miscounted, nil},
		{"keeps users' changes to itself", fault{list: listFault{userMute: true}}, flipping,
			unequal, []rule{miscounted}},
		{"skips users' changes", fault{list: listFault{userSkip: true}}, func(o *Options) {
			flipping(o)
			o.NoConflation = true
		}, skippedFrame, []rule{miscounted, unequal}},
		{"goes back to what a user was", fault{list: listFault{userBack: true}}, flipping,
			backwards, []rule{doubled, unequal}},
		{"says offline with devices online", fault{list: listFault{wrongStatus: true}}, users,
			miscounted, []rule{expiredEarly}},
		{"lingers too short", fault{list: listFault{lingerEarly: true}}, func(o *Options) {
			lingering(o)
			o.TTL, o.FlipShare, o.DevicesPerUser = 400*time.Millisecond, 60, 1
			o.ListLinger, o.MaxWait, o.Duration = 2*time.Second, 500*time.Millisecond,
				3*time.Second
		}, expiredEarly, []rule{miscounted}},
		{"hides a user who is back", fault{list: listFault{lingerHides: true}}, func(o *Options) {
			flipping(o)
			// A device beats ten times in a TTL, and comes back within the linger.
			o.TTL, o.FlipShare, o.DevicesPerUser, o.Rate = time.Second, 60, 1, 120
			o.ListLinger, o.MaxWait, o.Duration = 3*time.Second, 500*time.Millisecond,
				5*time.Second
		}, miscounted, []rule{unequal}},
		{"lingers for ever", fault{list: listFault{lingerNever: true}}, func(o *Options) {
			lingering(o)
			o.ListLinger, o.Scenario, o.SilentShare = 100*time.Millisecond, "silent", 1
			o.DevicesPerUser, o.MaxWait, o.Duration = 1, 500*time.Millisecond, 3*time.Second
		}, notExpired, []rule{miscounted}},
		{"has another time in fresh snapshots", fault{list: listFault{otherChanged: true}}, users,
			unequal, nil},
		{"renews no token", fault{list: listFault{renewForbidden: true}}, func(o *Options) {
			o.ListTokenTTL = 600 * time.Millisecond
		}, notRenewed, nil},
		{"forgets a renewal", fault{list: listFault{renewIgnored: true}}, func(o *Options) {
			o.ListTokenTTL, o.MaxWait, o.Duration = 800*time.Millisecond, 300*time.Millisecond,
				4*time.Second
		}, notRenewed, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mustJudge(t, func() (*Report, string) {
				s := startFake(t, c.fault)
				o := listRun(t, s)
				o.MaxWait = 2 * time.Second // that much is waited for what does not come
				if c.change != nil {
					c.change(&o)
				}
				s.linger = o.ListLinger
				rep := mustRun(t, o)
				return rep, misjudged(rep, c.want, c.and...)
			})
		})
	}
}

// TestEventsAreReadByPosition: what is not the contract's to the byte is no event (G5).
func TestEventsAreReadByPosition(t *testing.T) {
	const user = "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"
	head := "id: abc\nevent: user\ndata: "
	data := `{"schema_version":1,"user_id":"` + user + `","status":"online","devices_online":2,` +
		`"last_seen_ms":1739030400000,"changed_at_ms":1739030400001}`
	e, ok := parseEvent([]byte(head + data))
	if !ok || string(e.id) != "abc" || e.kind != userEvent {
		t.Fatalf("%+v %t", e, ok)
	}
	u, ok := parseUser(e.data)
	if !ok || u.offline || u.online != 2 || u.seen != 1739030400000 || u.changed != 1739030400001 ||
		string(u.user) != user {
		t.Fatalf("%+v %t", u, ok)
	}
	never := strings.NewReplacer("1739030400000", "null", "1739030400001", "null",
		`"online"`, `"offline"`, ":2,", ":0,").Replace(data)
	if u, ok = parseUser([]byte(never)); !ok || u.seen != unheard || u.changed != unheard ||
		!u.offline {
		t.Fatalf("%+v %t", u, ok)
	}
	for _, change := range [][2]string{{`:2,`, `:-2,`}, {`:2,`, `:2.0,`}, {`:2,`, `: 2,`},
		{"online\"", "away\""}, {"}", "} "}, {"null", "nil"}, {"schema_version\":1", "schema_version\":2"}} {
		for _, text := range []string{data, never} {
			changed := strings.Replace(text, change[0], change[1], 1)
			if _, ok := parseUser([]byte(changed)); ok && changed != text {
				t.Errorf("%v was taken", change)
			}
		}
	}
	for cut := range data {
		if _, ok := parseUser([]byte(data[:cut])); ok {
			t.Errorf("%q was taken", data[:cut])
		}
	}
	for _, bad := range []string{"event: user\ndata: {}", "id: a\ndata: {}", "id: a\nevent: user\n",
		"id: a\nevent: other\ndata: {}", "id: a\nevent: user\ndata: {}\ndata: {}", "id: a"} {
		if _, ok := parseEvent([]byte(bad)); ok {
			t.Errorf("%q was taken", bad)
		}
	}
	for text, good := range map[string]bool{
		`{"resumed":true,"users":3}`: true, `{"resumed":false,"users":0}`: true,
		`{"resumed":yes,"users":3}`: false, `{"resumed":true,"users":3} `: false,
		`{"resumed":true}`: false, ``: false,
	} {
		if _, _, ok := parseSynced([]byte(text)); ok != good {
			t.Errorf("%q: %t", text, ok)
		}
	}
	for id, good := range map[string]bool{"": true, "a-b_c.d~9": true, "a b": false, "a\rb": false,
		"é": false, strings.Repeat("x", 300): false} {
		if goodID([]byte(id)) != good {
			t.Errorf("%q", id)
		}
	}
}

// TestListsAreDrawn: each of its size, ascending, of the population, popular users more often.
func TestListsAreDrawn(t *testing.T) {
	w, _ := busyWorker()
	for _, skew := range []float64{0, 1.2} {
		d := newDraw(50, skew)
		seen := make([]int, 50)
		for range 400 {
			users := d.draw(10, w.rng)
			for i, u := range users {
				if i > 0 && u <= users[i-1] || len(users) != 10 {
					t.Fatal(users)
				}
				seen[u]++
			}
		}
		first, last := seen[0]+seen[1]+seen[2], seen[47]+seen[48]+seen[49]
		if even := first < 2*last; last == 0 || even != (skew == 0) {
			t.Errorf("skew %v: the first users are on %d lists, the last on %d", skew, first, last)
		}
	}
	if users := newDraw(8, 3).draw(8, w.rng); fmt.Sprint(users) != "[0 1 2 3 4 5 6 7]" {
		t.Error(users)
	}
}

// TestBoundsOfAUser: what a device's heartbeats allow to be claimed about it (G8). Times are in
// seconds; the TTL is 10, MaxWait 2, and the instant is 100.
func TestBoundsOfAUser(t *testing.T) {
	const now = 100
	for _, c := range []struct {
		name    string
		written []int // of heartbeats 1, 2, …
		acked   uint32
		busy    bool
		memory  uint32
		least   uint32
		most    uint32
		silence int64 // 0: nothing is claimed; -1: for ever
	}{
		{"never sent", nil, 0, false, 8, 0, 0, -1},
		{"sent and not answered", []int{99}, 0, true, 8, 0, 1, -1},
		{"the first, and just now", []int{99}, 1, false, 8, 0, 1, -1},
		// it may have been accepted at any time since it was written
		{"the first, some time ago", []int{95}, 1, false, 8, 0, 1, -1},
		{"steady", []int{86, 91, 96}, 3, false, 8, 1, 1, 9},
		{"steady and often", []int{90, 93, 96, 99}, 4, false, 8, 1, 1, 6},
		{"came back just now", []int{50, 60, 99}, 3, false, 8, 0, 1, 49},
		{"came back, and known to be for longer than an event may take", []int{60, 94, 97}, 3,
			false, 8, 1, 1, 6},
		// the last one may have been accepted long after it was written
		{"silent", []int{79, 80, 85}, 3, false, 8, 0, 0, 20},
		{"silent, and the last event may be late", []int{79, 80, 89}, 3, false, 8, 0, 1, 20},
		{"a retry is on its way", []int{60, 70}, 1, true, 8, 0, 1, 40},
		{"too little is remembered", []int{70, 99}, 2, false, 1, 0, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &Options{DevicesPerUser: 1, Rate: 1, TTL: 10 * time.Second,
				MaxWait: 2 * time.Second}
			r := &runner{o: o, orders: &orders{}, plan: []phase{{end: never}}}
			w := newWorker(r, 0, nil, []target{{}})
			w.now = now * second
			w.crowd.add(o, w.rng, 1)
			d := &w.crowd.devices[0]
			d.mask = c.memory - 1
			d.sent, d.acked, d.busy = uint32(len(c.written)), c.acked, c.busy
			for i, at := range c.written {
				w.crowd.momentOf(d, uint32(i+1)).written = int64(at) * second
			}
			if b := w.oracle.bounds(&w.crowd.users[0]); b.least != c.least || b.most != c.most {
				t.Errorf("%+v, want %d to %d", b, c.least, c.most)
			}
			silence, ok := w.oracle.silence(d)
			want := c.silence * second
			if c.silence < 0 {
				want = never
			}
			if ok != (c.silence != 0) || ok && silence != want {
				t.Errorf("silent for %v (%t), want %v", time.Duration(silence), ok,
					time.Duration(want))
			}
		})
	}
}
