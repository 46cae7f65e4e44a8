package cursor_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"rollcall/cursor"
)

// life is one start of a server: what it has committed, and what it kept.
type life struct {
	*cursor.History
	t                 *testing.T
	id                uint64
	committed         uint64
	epochs, forgotten []byte
}

// start begins a life where another one's log ends, with what that one kept.
func start(t *testing.T, id uint64, from *life, through uint64) *life {
	t.Helper()
	l := &life{t: t, id: id, committed: through}
	l.History = cursor.New(cursor.Options{
		Secret:    []byte("secret"),
		Hash:      hashOf,
		Committed: func() uint64 { return l.committed },
	})
	if from != nil {
		if err := l.Load(from.epochs, from.forgotten, 0); err != nil {
			t.Fatal(err)
		}
	}
	err := l.Begin(id, through+1, func(epochs []byte) error {
		l.epochs = bytes.Clone(epochs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l.keep()
	return l
}

func (l *life) keep() { l.forgotten = l.AppendForgotten(nil) }

func (l *life) at(lsn uint64) []byte { return l.Append(nil, cursor.Cursor{LSN: lsn}) }

// within is a cursor from the middle of a snapshot.
func (l *life) within(lsn, newest uint64) []byte {
	return l.Append(nil, cursor.Cursor{LSN: lsn, Newest: newest})
}

// want checks whether a cursor is honoured.
func (l *life) want(text []byte, honoured bool, what string) {
	l.t.Helper()
	if _, ok := l.Parse(text); ok != honoured {
		l.t.Errorf("epoch %c: %s: honoured %v, want %v", rune(l.id), what, ok, honoured)
	}
}

// TestBranches is the picture of the package comment (Q1).
func TestBranches(t *testing.T) {
	a := start(t, 'a', nil, 0)
	a.committed = 99
	b := start(t, 'b', a, 99)
	b.committed = 199
	c := start(t, 'c', b, 199)
	c.committed = 300
	d := start(t, 'd', b, 150)
	d.committed = 300
	c.want(b.within(90, 160), true, "b, 90, in part 160")
	d.want(b.within(90, 150), true, "b, 90, in part 150")
	d.want(b.within(90, 160), false, "b, 90, in part 160")
	for _, row := range []struct {
		epoch               *life
		lsn                 uint64
		directory, restored bool
	}{
		{a, 0, true, true}, {a, 90, true, true}, {a, 99, true, true}, {a, 100, false, false},
		{b, 90, true, true}, {b, 140, true, true}, {b, 150, true, true}, {b, 151, true, false},
		{b, 199, true, false}, {b, 200, false, false},
		{c, 150, true, false}, {c, 300, true, false}, {c, 301, false, false},
		{d, 150, false, true}, {d, 160, false, true}, {d, 300, false, true}, {d, 301, false, false},
	} {
		what := fmt.Sprintf("%c, %d", rune(row.epoch.id), row.lsn)
		c.want(row.epoch.at(row.lsn), row.directory, what)
		d.want(row.epoch.at(row.lsn), row.restored, what)
	}
}

// TestLostTail: a crash that takes more of the log than the last life has written (Q1).
func TestLostTail(t *testing.T) {
	a := start(t, 'a', nil, 0)
	b := start(t, 'b', a, 100)
	c := start(t, 'c', b, 90)
	c.committed = 200
	c.want(a.at(90), true, "what is left")
	c.want(a.at(95), false, "what was lost of the life before the last")
	c.want(b.at(95), false, "what was lost of the last life")
}

// TestMaxEpochs (Q5): many restarts, or a server that dies at once again and again.
func TestMaxEpochs(t *testing.T) {
	const lives = cursor.MaxEpochs + 44
	var all [][]byte
	var last *life
	for i := range uint64(lives) {
		last = start(t, 1000+i, last, 10*i)
		all = append(all, last.at(10*i))
	}
	if n := len(last.epochs); n != cursor.MaxEpochs*16 {
		t.Errorf("the list has %d bytes", n)
	}
	for i, text := range all {
		last.want(text, i >= lives-cursor.MaxEpochs, fmt.Sprintf("life %d", i))
	}
}

// TestBeginNeedsDurability (Q2): an epoch that could not be kept has no cursors.
func TestBeginNeedsDurability(t *testing.T) {
	full := errors.New("disk full")
	h := history("secret", 10)
	if err := h.Begin(1, 1, func([]byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("Begin: %v", err)
	}
	if _, ok := h.Parse(begun(t, "secret", 1, 10).Append(nil, cursor.Cursor{})); ok {
		t.Error("a cursor of an epoch that was not kept is honoured")
	}
}

// TestForgotten (Q4): per user, from life to life, never down.
func TestForgotten(t *testing.T) {
	users := []uuid.UUID{{0, 0}, {0, 4}, {0, 7}, {255, 255}}
	want := func(l *life, lsns ...uint64) {
		t.Helper()
		for i, user := range users {
			if got := l.Forgotten(user); got != lsns[i] {
				t.Errorf("user %d: %d, want %d", i, got, lsns[i])
			}
		}
	}
	forget := func(l *life, user int, lsn uint64) { l.Forget(hashOf(users[user]), lsn) }
	a := start(t, 'a', nil, 0)
	want(a, 0, 0, 0, 0)
	changes := a.Changes()
	forget(a, 1, 17)
	forget(a, 3, 20)
	forget(a, 1, 16)
	want(a, 0, 17, 0, 20)
	if got := a.Changes() - changes; got != 2 {
		t.Errorf("%d changes, want 2", got)
	}
	a.keep()
	b := start(t, 'b', a, 30)
	want(b, 0, 17, 0, 20)
	forget(b, 0, 31)
	b.keep()
	want(start(t, 'c', b, 40), 31, 17, 0, 20)
}

// TestMaxForgotten (Q4, Q5): the oldest users fall out, and no cursor is honoured because of it;
// one user's many devices push out no other.
func TestMaxForgotten(t *testing.T) {
	user := func(i int) (id uuid.UUID) {
		binary.BigEndian.PutUint64(id[:], uint64(i))
		return id
	}
	want := func(l *life, i int, lsn uint64) {
		t.Helper()
		if got := l.Forgotten(user(i)); got != lsn {
			t.Errorf("user %d: %d, want %d", i, got, lsn)
		}
	}
	a := start(t, 'a', nil, 0)
	for i := 1; i <= 100; i++ {
		a.Forget(hashOf(user(i)), uint64(i))
	}
	const many = 3 * cursor.MaxForgotten
	for lsn := uint64(101); lsn <= many; lsn++ {
		a.Forget(hashOf(user(101)), lsn)
		if lsn%10_000 == 0 { // as each checkpoint does
			a.Compact()
		}
	}
	for _, l := range []*life{a, restarted(t, a)} {
		want(l, 1, 1)
		want(l, 100, 100)
		want(l, 101, many)
		want(l, 102, 0)
	}
	const more = 2 * cursor.MaxForgotten
	for i := 1; i <= more; i++ {
		a.Forget(hashOf(user(1000+i)), uint64(many+i))
	}
	if n := len(a.AppendForgotten(nil)); n > 8+16*cursor.MaxForgotten {
		t.Errorf("the list has %d bytes", n)
	}
	for _, l := range []*life{a, restarted(t, a)} {
		want(l, 1000+more, many+more)
		first := more - cursor.MaxForgotten // the newest that fell out
		want(l, 1000+first+1, uint64(many+first+1))
		want(l, 1000+first, uint64(many+first))
		want(l, 1, uint64(many+first))
		want(l, 999_999, uint64(many+first))
	}
}

// restarted is the next life of a server.
func restarted(t *testing.T, l *life) *life {
	l.keep()
	return start(t, l.id+1, l, l.committed)
}

// TestForgottenUnknown: of a directory that kept no list any device may have been forgotten.
func TestForgottenUnknown(t *testing.T) {
	h := history("secret", 10)
	if err := h.Load(nil, nil, 55); err != nil {
		t.Fatal(err)
	}
	if got := h.Forgotten(ann); got != 55 {
		t.Errorf("%d, want 55", got)
	}
	kept := h.AppendForgotten(nil)
	h = history("secret", 10)
	if err := h.Load(nil, kept, 99); err != nil {
		t.Fatal(err)
	}
	if got := h.Forgotten(bob); got != 55 {
		t.Errorf("in the next life %d, want 55", got)
	}
}

// TestLoadRefusesDamage: what is no list of ours is an error, not a history.
func TestLoadRefusesDamage(t *testing.T) {
	good := history("secret", 10).AppendForgotten(nil)
	for what, lists := range map[string][2][]byte{
		"a cut epoch":     {make([]byte, 15), good},
		"too many epochs": {make([]byte, (cursor.MaxEpochs+1)*16), good},
		"no floor":        {nil, make([]byte, 7)},
		"a cut user":      {nil, make([]byte, 8+15)},
		"too many users":  {nil, make([]byte, 8+16*(cursor.MaxForgotten+1))},
	} {
		err := history("secret", 10).Load(lists[0], lists[1], 0)
		if !errors.Is(err, cursor.ErrEpochs) && !errors.Is(err, cursor.ErrForgotten) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
