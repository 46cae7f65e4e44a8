package cursor_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/cursor"
)

// hashOf knows a user by its first bytes.
func hashOf(user uuid.UUID) uint64 { return binary.BigEndian.Uint64(user[:]) }

func history(secret string, committed uint64) *cursor.History {
	return cursor.New(cursor.Options{
		Secret:    []byte(secret),
		Hash:      hashOf,
		Committed: func() uint64 { return committed },
	})
}

func keepNothing([]byte) error { return nil }

// begun is a history whose first epoch has this id.
func begun(t testing.TB, secret string, id, committed uint64) *cursor.History {
	t.Helper()
	h := history(secret, committed)
	if err := h.Begin(id, 1, keepNothing); err != nil {
		t.Fatal(err)
	}
	return h
}

var (
	ann = uuid.MustParse("0b4c1a52-5b1e-4a3e-9d0e-3f1f6f1a2b3c")
	bob = uuid.MustParse("7d444840-9dc0-41d1-b245-5ffdce74fad2")
)

// TestGoldenText: cursors live as long as the clients that hold them, over versions of the server.
func TestGoldenText(t *testing.T) {
	h := begun(t, "secret", 0x0123456789abcdef, 1<<40)
	c := cursor.Cursor{
		View: 1, LingerMS: 30_000, List: h.List([]uuid.UUID{ann, bob}),
		LSN: 123_456, Newest: 123_999, ToldMS: 1_739_030_400_000,
	}
	const want = "AQHvzauJZ0UjAbDqAeiU5Nhmv47twMQHnwSAmKiyzjJ74gnl"
	if got := string(h.Append(nil, c)); got != want {
		t.Errorf("the cursor is %s, want %s", got, want)
	}
	if got, ok := h.Parse([]byte(want)); !ok || got != c {
		t.Errorf("it reads as %+v, %v", got, ok)
	}
	if h.List([]uuid.UUID{bob, ann}) != c.List {
		t.Error("the digest depends on the order of the users")
	}
	if h.List([]uuid.UUID{ann}) == c.List {
		t.Error("another list has the same digest")
	}
}

func TestLongestText(t *testing.T) {
	h := begun(t, "secret", 1<<63, 1<<64-1)
	c := cursor.Cursor{
		View: 255, LingerMS: 1<<32 - 1, List: 1<<64 - 1, LSN: 1 << 63, Newest: 1<<64 - 1,
		ToldMS: 1<<64 - 1,
	}
	got := h.Append([]byte("id: "), c)[4:]
	if len(got) > cursor.MaxText || cursor.MaxText > 100 {
		t.Errorf("%d bytes, MaxText is %d", len(got), cursor.MaxText)
	}
	if back, ok := h.Parse(got); !ok || back != c {
		t.Errorf("it reads as %+v, %v", back, ok)
	}
	if strings.ContainsAny(string(got), "\r\n+/= ") {
		t.Errorf("%q is not safe in a line and a URL", got)
	}
}

// TestMutations (Q3): nothing passes for a cursor that differs from one in one character, is cut,
// has a line break in it, or comes from a history with another secret.
func TestMutations(t *testing.T) {
	h := begun(t, "secret", 77, 1000)
	c := cursor.Cursor{List: 5, LSN: 900, Newest: 901, ToldMS: 1_739_030_400_000}
	text := h.Append(nil, c)
	for i := range text {
		mutant := bytes.Clone(text)
		for b := range 256 {
			if mutant[i] = byte(b); byte(b) == text[i] {
				continue
			}
			if _, ok := h.Parse(mutant); ok {
				t.Errorf("%q is honoured for %q", mutant, text)
			}
		}
		if _, ok := h.Parse(text[:i]); ok {
			t.Errorf("%q is honoured", text[:i])
		}
		for _, more := range []string{"\n", "\r", "A", "="} {
			if _, ok := h.Parse([]byte(string(text[:i]) + more + string(text[i:]))); ok {
				t.Errorf("%q is honoured with %q at %d", text, more, i)
			}
		}
	}
	if _, ok := begun(t, "another", 77, 1000).Parse(text); ok {
		t.Error("a history with another secret honours it")
	}
	if _, ok := history("secret", 1000).Parse(text); ok {
		t.Error("it is honoured before an epoch has begun")
	}
}

// FuzzParse feeds Parse with what clients may bring, and mutates cursors of any content (Q3).
func FuzzParse(f *testing.F) {
	h := begun(f, "secret", 77, 1<<64-1)
	f.Add(byte(0), uint32(0), uint64(1), uint64(2), uint64(0), uint64(3), uint16(4), byte(5),
		[]byte("AQ"))
	f.Add(byte(1), uint32(600_000), uint64(1<<63), uint64(1<<40), uint64(1<<40),
		uint64(1_739_030_400_000), uint16(17), byte('A'), h.Append(nil, cursor.Cursor{}))
	f.Fuzz(func(
		t *testing.T, view byte, linger uint32, list, lsn, more, told uint64, at uint16, to byte,
		given []byte,
	) {
		if c, ok := h.Parse(given); ok && !bytes.Equal(h.Append(nil, c), given) {
			t.Fatalf("%q reads as %+v, which is written otherwise", given, c)
		}
		c := cursor.Cursor{View: view, LingerMS: linger, List: list, LSN: lsn,
			Newest: max(lsn, lsn+more), ToldMS: told}
		text := h.Append(nil, c)
		if back, ok := h.Parse(text); !ok || back != c {
			t.Fatalf("%+v reads as %+v, %v", c, back, ok)
		}
		i := int(at) % len(text)
		if text[i] == to {
			return
		}
		text[i] = to
		if _, ok := h.Parse(text); ok {
			t.Fatalf("%q is honoured for %+v", text, c)
		}
	})
}

// TestAppendAllocatesNothing: each event of each stream has an id.
func TestAppendAllocatesNothing(t *testing.T) {
	h := begun(t, "secret", 77, 1000)
	buf := make([]byte, 0, 1<<10)
	allocs := testing.AllocsPerRun(100, func() {
		buf = h.Append(buf[:0], cursor.Cursor{List: 1 << 60, LSN: 1000})
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkAppend(b *testing.B) {
	h := begun(b, "secret", 77, 1000)
	buf := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for i := range b.N {
		buf = h.Append(buf[:0], cursor.Cursor{
			List: 1 << 60, LSN: 1<<30 + uint64(i), ToldMS: 1_739_030_400_000,
		})
	}
}
