package bustest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"rollcall/cluster/bus"
	"rollcall/cluster/bus/bustest"
)

const subject bus.Subject = "s"

// pair is two nodes, the second of which notes what it gets and answers it.
func pair() (n *bustest.Net, a *bustest.Bus, got *[]string) {
	n = bustest.New()
	a, b := n.Node("a"), n.Node("b")
	got = new([]string)
	b.Handle(subject, func(m bus.Message) {
		*got = append(*got, string(m.Data))
		if m.Reply != nil {
			m.Reply(m.Data)
		}
	})
	return n, a, got
}

func TestScript(t *testing.T) {
	n, a, got := pair()
	send := func(texts ...string) {
		for _, text := range texts {
			if !a.Send("b", subject, []byte(text)) {
				t.Fatal("a message found no room")
			}
		}
		n.Settle()
	}
	send("1", "2")
	n.Cut("a", "b")
	send("lost")
	n.Heal("a", "b")
	n.Hold("a", "b")
	send("3", "4")
	if !slices.Equal(*got, []string{"1", "2"}) {
		t.Fatal(*got, "arrived before the link was healed")
	}
	n.Heal("a", "b")
	send("5")
	n.Drop(func(from, to string, _ bus.Subject, data []byte) bool { return string(data) == "6" })
	send("6", "7")
	if want := []string{"1", "2", "3", "4", "5", "7"}; !slices.Equal(*got, want) {
		t.Fatal(*got, "arrived, not", want)
	}
}

func TestRequest(t *testing.T) {
	n, a, _ := pair()
	if answer, err := a.Request(t.Context(), "b", subject, []byte("x")); string(answer) != "x" {
		t.Fatal(answer, err)
	}
	for _, to := range []string{"c", "a"} {
		if _, err := a.Request(t.Context(), to, subject, nil); !errors.Is(err, bus.ErrNoNode) {
			t.Fatal(to, err)
		}
	}
	n.Cut("b", "a")
	ctx, cancel := context.WithCancel(t.Context())
	go func() { n.Settle(); cancel() }()
	if _, err := a.Request(ctx, "b", subject, nil); !errors.Is(err, context.Canceled) {
		t.Fatal("an answer came over a link that is cut:", err)
	}
	if peers := a.Peers(); !slices.Equal(peers, []string{"b"}) {
		t.Fatal(peers)
	}
}
