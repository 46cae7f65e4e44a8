package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// TestRecent compares what Recent lists with what all devices say, for all kinds of questions.
func TestRecent(t *testing.T) {
	rng := testseed.Rand(t)
	r := startRig(t, newMemLog(), Options{})
	all := map[uuid.UUID]*ListedUser{}
	var users []uuid.UUID
	var devices []*Heartbeat
	for i := range 60 {
		hb := newHeartbeat(0, 3_600_000)
		if i%3 > 0 { // users of up to three devices
			hb.User = users[len(users)-1]
		} else {
			users = append(users, hb.User)
			all[hb.User] = &ListedUser{ID: hb.User}
		}
		hb.Source = fmt.Appendf(nil, "Daemon %c", 'a'+i%7)
		devices = append(devices, hb)
	}
	online := map[uuid.UUID]bool{}
	for range 400 {
		r.now.Add(int64(time.Millisecond))
		hb := devices[rng.IntN(len(devices)*3/4)] // some are never heard of
		hb.Seq++
		hb.Status = Status(rng.IntN(2))
		r.mustAccept(hb)
		u, at := all[hb.User], wallZero+uint64(r.now.Load()/int64(time.Millisecond))
		if was := online[hb.Device]; was != (hb.Status == Online) {
			online[hb.Device] = !was
			u.ChangedAtMS = at
			u.Online += map[bool]int{true: -1, false: 1}[was]
		}
		if hb.Status == Online {
			u.SeenAtMS = at
		}
		if hb.Seq == 1 {
			u.Devices++
		}
		u.Source = string(hb.Source)
	}
	never := newHeartbeat(1, 60_000) // has only ever said offline
	never.Status = Offline
	r.mustAccept(never)
	all[never.User] = &ListedUser{ID: never.User, Devices: 1, Source: "test"}
	users = append(users, never.User)

	sources := func(user uuid.UUID) (texts []string) {
		known, err := allDevices(r, user)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range known {
			texts = append(texts, d.Source)
		}
		return texts
	}
	want := func(q UserQuery, prefix string) (listed []ListedUser) {
		for _, u := range all {
			if u.Devices == 0 || !strings.HasPrefix(u.ID.String(), prefix) ||
				q.HasStatus && (u.Online > 0) != (q.Status == Online) ||
				!slices.ContainsFunc(sources(u.ID), func(source string) bool {
					return strings.Contains(strings.ToLower(source), strings.ToLower(q.Source))
				}) {
				continue
			}
			listed = append(listed, *u)
		}
		slices.SortFunc(listed, func(a, b ListedUser) int {
			if a.ChangedAtMS != b.ChangedAtMS {
				return int(int64(b.ChangedAtMS) - int64(a.ChangedAtMS))
			}
			return strings.Compare(a.ID.String(), b.ID.String())
		})
		return listed[:min(len(listed), q.Limit)]
	}
	nonEmpty := 0
	for range 500 {
		id := users[rng.IntN(len(users))].String()
		prefix := id[:[]int{0, 0, 0, 1, 2, 9, 36}[rng.IntN(7)]]
		q := UserQuery{Limit: 1 + rng.IntN(25), HasStatus: rng.IntN(2) == 0,
			Status: Status(rng.IntN(2)), Source: []string{"", "", "DAEMON", "on c", "test", "?"}[rng.IntN(6)]}
		var ok bool
		if q.ID, ok = ParseIDPrefix(strings.ToUpper(prefix)); !ok {
			t.Fatalf("%q is no prefix", prefix)
		}
		got, err := r.Recent(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if w := want(q, prefix); !slices.Equal(got, w) {
			t.Fatalf("prefix %q, %+v:\n got %+v\nwant %+v", prefix, q, got, w)
		}
		if len(got) > 0 {
			nonEmpty++
		}
	}
	if nonEmpty < 100 {
		t.Errorf("only %d answers had users", nonEmpty)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Recent(gone, UserQuery{Limit: 9}); !errors.Is(err, context.Canceled) {
		t.Errorf("when the asker has gone: %v", err)
	}
}

func TestParseIDPrefix(t *testing.T) {
	whole := "0123abcd-4567-4abc-8def-0123456789ab"
	for n := range len(whole) + 1 {
		p, ok := ParseIDPrefix(whole[:n])
		if again, same := ParseIDPrefix(p.String()); !ok || !same || again != p {
			t.Errorf("%q became %q", whole[:n], p)
		}
	}
	for _, wrong := range []string{"g", "6a0f5a1e2", "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01x", "\x10",
		"6a0f5a1-", " 6", "-"} {
		if _, ok := ParseIDPrefix(wrong); ok {
			t.Errorf("%q is a prefix", wrong)
		}
	}
}
