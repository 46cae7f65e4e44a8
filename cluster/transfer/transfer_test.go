package transfer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/internal/testwire"
)

// TestGolden fixes the bytes of format 1: other versions read them.
func TestGolden(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"page":     {Page{States: []byte("ab"), Next: []byte("n")}.Append(nil), "0101006e0200000061627446dd68"},
		"request":  {request{askExport, 7, []byte("x")}.append(nil), "01450700000078"},
		"count":    {appendCount(appendOK(nil), 258), "000201000000000000"},
		"error":    {appendError(nil, errors.New("no")), "016e6f"},
		"no owner": {appendError(nil, ErrNoOwner), "02"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
}

// TestGoldenIsRead: what was written so is read so.
func TestGoldenIsRead(t *testing.T) {
	p, err := ParsePage(testwire.Unhex(t, "0101006e0200000061627446dd68"))
	if string(p.States) != "ab" || string(p.Next) != "n" || err != nil {
		t.Errorf("a page: %+v, %v", p, err)
	}
	for what, text := range map[byte]string{
		askExport: "01450700000078", askImport: "01490700000078", askDevices: "01440700000078",
	} {
		r, err := parseRequest(testwire.Unhex(t, text))
		if r.what != what || r.partition != 7 || string(r.body) != "x" || err != nil {
			t.Errorf("a request: %+v, %v", r, err)
		}
	}
	rest, err := cutAnswer(testwire.Unhex(t, "000201000000000000"))
	n, countErr := parseCount(rest)
	if n != 258 || err != nil || countErr != nil {
		t.Errorf("a count: %d, %v, %v", n, err, countErr)
	}
	if _, err := cutAnswer(testwire.Unhex(t, "016e6f")); err == nil || err.Error() != "no" {
		t.Errorf("an error: %v", err)
	}
	if _, err := cutAnswer(testwire.Unhex(t, "02")); !errors.Is(err, ErrNoOwner) {
		t.Errorf("no owner: %v", err)
	}
}

// TestPageIsWhole: a page that was cut anywhere, or has any other bit, is refused.
func TestPageIsWhole(t *testing.T) {
	whole := Page{States: []byte("states"), Next: []byte("next")}.Append(nil)
	p, err := ParsePage(whole)
	if err != nil || string(p.States) != "states" || string(p.Next) != "next" {
		t.Fatalf("%+v, %v", p, err)
	}
	for i := range whole {
		if _, err := ParsePage(whole[:i]); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if _, err := ParsePage(b); err == nil {
				t.Errorf("bit %d of byte %d: no error", bit, i)
			}
		}
	}
	if _, err := ParsePage(Page{States: make([]byte, MaxPageBytes+1)}.Append(nil)); err == nil {
		t.Error("a page that is too long is read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Page{States: []byte("states"), Next: []byte("next")}.Append(nil))
	f.Add(request{askImport, 3, []byte("x")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePage(b); err == nil && !bytes.Equal(p.Append(nil), b) {
			t.Errorf("%x became %x", b, p.Append(nil))
		}
		if r, err := parseRequest(b); err == nil && !bytes.Equal(r.append(nil), b) {
			t.Errorf("%x became %x", b, r.append(nil))
		}
		_, _ = cutAnswer(b)
	})
}

// loop is a bus of one node.
type loop struct {
	bus.Bus
	handle func(bus.Message)
}

func (l *loop) Handle(_ bus.Subject, fn func(bus.Message)) { l.handle = fn }

func (l *loop) Request(ctx context.Context, to string, s bus.Subject, data []byte) ([]byte, error) {
	if to != "a" {
		return nil, bus.ErrNoNode
	}
	answer := make(chan []byte, 1)
	l.handle(bus.Message{Data: data, Reply: func(b []byte) { answer <- b }})
	return <-answer, nil
}

// nothing owns no partition.
type nothing struct{ owner string }

func (n nothing) Owner(int) string                      { return n.owner }
func (nothing) Mine(int) (*engine.Engine, func(), bool) { return nil, nil, false }

// Without an owner, with one that is gone, and with one that is not the owner any more, the caller
// is told to ask again.
func TestNoOwner(t *testing.T) {
	for _, owner := range []string{"", "a", "b"} {
		x := New(&loop{}, nothing{owner})
		if _, err := x.Export(t.Context(), 0, nil); !errors.Is(err, ErrNoOwner) {
			t.Errorf("owner %q: %v", owner, err)
		}
		if _, err := x.Import(t.Context(), 0, nil); !errors.Is(err, ErrNoOwner) {
			t.Errorf("owner %q: %v", owner, err)
		}
		if _, err := x.Devices(t.Context(), 0); !errors.Is(err, ErrNoOwner) {
			t.Errorf("owner %q: %v", owner, err)
		}
	}
}
