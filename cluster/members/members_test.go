package members

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testwait"
	"rollcall/jslog/jslogtest"
)

// held returns how many messages of a log each copy of it acknowledges, by reading it.
func (l *lab) held(log string) (n int) {
	l.t.Helper()
	js, err := l.app.JetStream()
	if err != nil {
		l.t.Fatal(err)
	}
	testwait.Until(l.t, "the log is there", func() bool {
		info, err := js.StreamInfo(log)
		if err == nil {
			n = int(info.State.Msgs)
		}
		return err == nil
	})
	return n
}

// TestMembership: a node joins and gets its part of the copies; another leaves, and has none; a
// third dies and is replaced. No log is ever without a majority of its copies, and all have what
// they had.
func TestMembership(t *testing.T) {
	if testing.Short() {
		t.Skip("five log servers")
	}
	l := newLab(t, []string{"n1", "n2", "n3"}, 4, 3)
	l.fill(50)
	ctx := context.Background()
	m := l.members()

	var refused *RefusedError
	if err := m.Leave(ctx, "n3"); !errors.As(err, &refused) {
		t.Errorf("one of three may leave: %v", err)
	}
	l.start("spare1")
	testwait.Until(t, "the new node is a member", func() bool {
		s := l.look()
		return s != nil && len(s.Nodes) == 4 && s.unsettled("") == "" &&
			!slices.ContainsFunc(s.Nodes, func(n Node) bool { return !n.InReach || !n.Current })
	})
	testwait.Until(t, "copies are balanced", func() bool {
		_, err := m.Balance(ctx)
		s := l.look()
		return err == nil && s != nil && s.on("spare1") >= 3
	})
	l.settle()

	if err := m.Leave(ctx, "n1"); !errors.As(err, &refused) {
		t.Errorf("a node may see itself off: %v", err)
	}
	testwait.Until(t, "the node may leave", func() bool { return m.Leave(ctx, "n2") == nil })
	if err := m.Leave(ctx, "n3"); !errors.As(err, &refused) {
		t.Errorf("two deeds at a time: %v", err)
	}
	if d := l.waitDone(m); d.Failed != "" || d.Moved == 0 || int64(d.Moved) > l.moved.Load() {
		t.Fatalf("leave: %+v, of %d moves", d, l.moved.Load())
	}
	testwait.Until(t, "the node is no member", func() bool {
		s := l.look()
		return s != nil && s.node("n2") == nil && s.on("n2") == 0 && s.unsettled("") == ""
	})
	l.stop("n2")

	l.stop("n3")
	l.start("spare2")
	testwait.Until(t, "the dead node may be replaced", func() bool {
		return m.Replace(ctx, "n3", "spare2") == nil
	})
	if d := l.waitDone(m); d.Failed != "" {
		t.Fatalf("replace: %+v", d)
	}
	testwait.Until(t, "the dead node is no member", func() bool {
		s := l.look()
		return s != nil && s.node("n3") == nil && len(s.Nodes) == 3 && s.unsettled("") == ""
	})
	for _, log := range l.logs {
		if log != "DEEDS" && l.held(log) != 50 {
			t.Errorf("%s has %d messages, want 50", log, l.held(log))
		}
	}
}

// whole is a state of n nodes with logs on three of them each, all current.
func whole(n, logs int) *State {
	s := &State{Leader: "n1", Copies: 3}
	for i := range n {
		s.Nodes = append(s.Nodes, Node{fmt.Sprintf("n%d", i+1), true, true})
	}
	for i := range logs {
		l := Log{Name: fmt.Sprintf("P%d", i)}
		for j := range 3 {
			l.Copies = append(l.Copies,
				Copy{Node: s.Nodes[(i+j)%n].Name, Current: true, InReach: true})
		}
		l.Leader = l.Copies[0].Node
		s.Logs = append(s.Logs, l)
	}
	return s
}

// gone has a node out of reach.
func (s *State) gone(name string) {
	s.node(name).InReach, s.node(name).Current = false, false
	for i := range s.Logs {
		l := &s.Logs[i]
		for j := range l.Copies {
			if l.Copies[j].Node == name {
				l.Copies[j].InReach, l.Copies[j].Current = false, false
			}
		}
		if l.Leader == name {
			l.Leader = l.Copies[1].Node
		}
	}
}

// TestGuards: what M1 to M3 forbid is refused, with what to do.
func TestGuards(t *testing.T) {
	leave := func(node string) func(*State) string {
		return func(s *State) string { return s.mayLeave(node) }
	}
	replace := func(old, by string) func(*State) string {
		return func(s *State) string { return s.mayReplace(old, by) }
	}
	for name, c := range map[string]struct {
		nodes  int
		change func(s *State)
		ask    func(s *State) string
		want   string // part of the refusal; "": none
	}{
		"leave":              {4, func(*State) {}, leave("n4"), ""},
		"leave of three":     {3, func(*State) {}, leave("n3"), "Start another node first"},
		"leave unknown":      {4, func(*State) {}, leave("n9"), "Members are n1, n2, n3, n4"},
		"leave dead":         {5, func(s *State) { s.gone("n5") }, leave("n5"), "is not in reach"},
		"leave beside dead":  {5, func(s *State) { s.gone("n5") }, leave("n4"), "Bring the node back"},
		"no leader":          {4, func(s *State) { s.Leader = "" }, leave("n4"), "no node leads"},
		"leaderless log":     {4, func(s *State) { s.Logs[2].Leader = "" }, leave("n4"), "P2 has no leader"},
		"moving":             {4, func(s *State) { s.Logs[1].Moving = true }, leave("n4"), "P1 are being moved"},
		"short of copies":    {4, func(s *State) { s.Logs[1].Copies = s.Logs[1].Copies[:2] }, leave("n4"), "2 copies of 3"},
		"damaged":            {4, func(s *State) { s.Logs[0].Copies[2].Missing = 7 }, leave("n4"), "was damaged, it lacks 7"},
		"not current":        {4, func(s *State) { s.Logs[0].Copies[2].Current = false }, leave("n4"), "is not current"},
		"replace":            {4, func(s *State) { s.gone("n3") }, replace("n3", "n4"), ""},
		"replace in reach":   {4, func(*State) {}, replace("n3", "n4"), "is in reach"},
		"replace by itself":  {4, func(s *State) { s.gone("n3") }, replace("n3", "n3"), "under a new name"},
		"replace by unknown": {4, func(s *State) { s.gone("n3") }, replace("n3", "n9"), "is no member. Start it"},
		"replace unknown":    {4, func(*State) {}, replace("n9", "n4"), "n9 is no member"},
		"replace by dead":    {5, func(s *State) { s.gone("n3"); s.gone("n5") }, replace("n3", "n5"), "is not in reach"},
		"replace of three":   {3, func(s *State) { s.gone("n3") }, replace("n3", "n2"), "Start another node first"},
		"replace, two dead": {6, func(s *State) { s.gone("n3"); s.gone("n5") }, replace("n3", "n6"),
			"Bring the node back, or replace it"},
		"replace without quorum": {4, func(s *State) { s.gone("n3"); s.gone("n2"); s.Copies = 1 },
			replace("n3", "n4"), "no majority"},
		"remove with a copy": {4, func(*State) {}, func(s *State) string { return s.mayRemove("n2") },
			"still has a copy"},
	} {
		s := whole(c.nodes, 6)
		c.change(s)
		got := c.ask(s)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestSurplus(t *testing.T) {
	s := whole(3, 9)
	if log, to, ok := s.Surplus("n1"); ok {
		t.Errorf("an even cluster: %s to %s", log, to)
	}
	for i := range s.Logs {
		s.Logs[i].Leader = "n1"
	}
	s.Logs[8].Leader = "n2"
	log, to, ok := s.Surplus("n1")
	if !ok || to != "n3" || log == "P8" {
		t.Errorf("%s to %s, %v", log, to, ok)
	}
	for i := range s.Logs { // the copies on n3 are damaged in a way that only n3 knows of
		for j := range s.Logs[i].Copies {
			s.Logs[i].Copies[j].Unusable = s.Logs[i].Copies[j].Node == "n3"
		}
	}
	if log, to, ok := s.Surplus("n1"); !ok || to != "n2" {
		t.Errorf("%s to %s, %v, while n3 cannot use its copies", log, to, ok)
	}
	if _, _, ok := s.Surplus("n2"); ok {
		t.Error("a node with less than its share has a surplus")
	}
	s.Logs[4].Copies[1].Current = false
	if _, _, ok := s.Surplus("n1"); ok {
		t.Error("leaders move while a copy is not current")
	}
}

func TestToBalance(t *testing.T) {
	s := whole(3, 9)
	if _, _, ok := s.toBalance(); ok {
		t.Error("an even cluster is balanced")
	}
	s.Nodes = append(s.Nodes, Node{"n4", true, true})
	log, from, ok := s.toBalance()
	if !ok || from == "n4" || !s.Logs[slices.IndexFunc(s.Logs,
		func(l Log) bool { return l.Name == log })].has(from) {
		t.Errorf("%s from %s, %v", log, from, ok)
	}
	s.Nodes[3].Current = false
	if _, _, ok := s.toBalance(); ok {
		t.Error("copies move to a node that knows nothing yet")
	}
}

// TestLock: of two that begin, one is refused; a lease that has ended is taken over, and its holder
// fails with its next word (M4).
func TestLock(t *testing.T) {
	ctx, j := context.Background(), jslogtest.New()
	now := time.UnixMilli(1_700_000_000_000)
	a, err := take(ctx, j.As("a"), Deed{Kind: "leave", Node: "n1", Runner: "a"}, now)
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	_, err = take(ctx, j.As("b"), Deed{Kind: "leave", Node: "n2", Runner: "b"}, now.Add(lease/2))
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "leave n1") {
		t.Errorf("two at a time: %v", err)
	}
	b, err := take(ctx, j.As("b"), Deed{Kind: "leave", Node: "n2", Runner: "b"}, now.Add(2*lease))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.tell(ctx, now.Add(2*lease)); err == nil {
		t.Error("a lock that was lost is held")
	}
	b.done(ctx, errors.New("it broke"))
	d, seq, err := last(ctx, j.As("c"))
	if err != nil || seq == 0 || !d.Done || d.Failed != "it broke" || d.Node != "n2" {
		t.Errorf("%+v, %d, %v", d, seq, err)
	}
	if _, err := take(ctx, j.As("c"), Deed{Kind: "leave", Node: "n3"}, now.Add(2*lease)); err != nil {
		t.Error(err)
	}
}

// TestReplaceUnmet: all servers are stopped, and one does not come back: the others have not met it
// since their start, and replace it all the same.
func TestReplaceUnmet(t *testing.T) {
	if testing.Short() {
		t.Skip("four log servers")
	}
	names := []string{"n1", "n2", "n3", "spare1"}
	l := newLab(t, names[:3], 2, 3)
	l.fill(10)
	l.start("spare1")
	testwait.Until(t, "the new node is a member", func() bool {
		s := l.look()
		return s != nil && len(s.Nodes) == 4 && s.unsettled("") == ""
	})
	l.hangUp()
	for _, name := range names {
		l.stop(name)
	}
	for _, name := range []string{"n1", "n2", "spare1"} {
		l.start(name)
	}
	l.connect("n1")
	m := l.members()
	testwait.Until(t, "it may be replaced", func() bool {
		return m.Replace(context.Background(), "n3", "spare1") == nil
	})
	if d := l.waitDone(m); d.Failed != "" || d.Moved == 0 || d.Left != 0 {
		t.Fatalf("%+v", d)
	}
	testwait.Until(t, "it is no member", func() bool {
		s := l.look()
		return s != nil && s.node("n3") == nil && len(s.Nodes) == 3 && s.unsettled("") == ""
	})
}

// TestLockOfAWrongClock: an entry of a node whose clock was a year ahead holds up no other one.
func TestLockOfAWrongClock(t *testing.T) {
	ctx, j := context.Background(), jslogtest.New()
	now := time.UnixMilli(1_700_000_000_000)
	deed := Deed{Kind: "leave", Node: "n1", Runner: "a"}
	if _, err := take(ctx, j.As("a"), deed, now.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := take(ctx, j.As("b"), deed, now); err != nil {
		t.Error(err)
	}
}

// FuzzLast: no entry of the journal breaks a node, and what cannot be read is no deed.
func FuzzLast(f *testing.F) {
	f.Add([]byte(`{"kind":"leave","node":"n1","runner":"a","at_ms":1,"done":true}`))
	f.Fuzz(func(t *testing.T, entry []byte) {
		ctx, j := context.Background(), jslogtest.New().As("a")
		_, end, err := j.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Publish(ctx, end, entry); err != nil {
			t.Fatal(err)
		}
		d, seq, err := last(ctx, j)
		if err == nil && (seq == 0 || !json.Valid(entry)) {
			t.Errorf("%q is %+v", entry, d)
		}
		_ = d.String()
	})
}
