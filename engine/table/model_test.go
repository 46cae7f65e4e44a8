package table

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// model is a table as a map, with each user's devices.
type model struct {
	order  map[uuid.UUID][]uuid.UUID
	states map[[2]uuid.UUID]State // the zero State: seen, nothing accepted
}

func newModel() *model {
	return &model{order: map[uuid.UUID][]uuid.UUID{}, states: map[[2]uuid.UUID]State{}}
}

// runCommands does to the table and to the model what the bytes say, two for each command, and
// compares.
func runCommands(t *testing.T, tab *Table, commands []byte) {
	m := newModel()
	for i := 0; i+1 < len(commands); i += 2 {
		u, d := user(int(commands[i]>>4)%6), device(int(commands[i+1]))
		m.command(t, tab, commands[i]&15, u, d, uint64(i+1))
	}
	m.compare(t, tab)
}

func (m *model) command(t *testing.T, tab *Table, op byte, u, d uuid.UUID, lsn uint64) {
	t.Helper()
	key := [2]uuid.UUID{u, d}
	before, known := m.states[key]
	r, e := tab.Find(u, d)
	if (e != nil) != known {
		t.Fatalf("Find(%v, %v): %d, want known=%v", u, d, r, known)
	}
	switch {
	case op < 8: // a heartbeat
		put(t, tab, u, d, lsn, lsn)
		m.see(u, d)
		m.states[key] = *stateOf(d, lsn, lsn)
	case op < 9: // first sight without a heartbeat
		if _, _, err := tab.FindOrInsert(u, d); err != nil {
			t.Fatal(err)
		}
		m.see(u, d)
	case op < 14 && known:
		forget(t, tab, u, d)
		delete(m.states, key)
		m.order[u] = slices.DeleteFunc(m.order[u], func(id uuid.UUID) bool { return id == d })
	case known: // a claim that changes nothing
		if !e.Claim(u, d) || e.Held() != before {
			t.Fatalf("Held: %+v, want %+v", e.Held(), before)
		}
		e.Unclaim()
	default: // a claim of another's entry
		if tab.Stats().Slots > 0 && tab.Entry(1).Claim(u, d) {
			t.Fatal("an unknown device claimed an entry")
		}
	}
}

func (m *model) see(u, d uuid.UUID) {
	if _, known := m.states[[2]uuid.UUID{u, d}]; !known {
		m.order[u] = append(m.order[u], d)
		m.states[[2]uuid.UUID{u, d}] = State{}
	}
}

func (m *model) compare(t *testing.T, tab *Table) {
	t.Helper()
	users := 0
	for u, devices := range m.order {
		if len(devices) > 0 {
			users++
		}
		var want []uuid.UUID
		for _, d := range devices {
			if m.states[[2]uuid.UUID{u, d}].LSN != 0 {
				want = append(want, d)
			}
		}
		got := devicesOf(tab, u)
		for _, ids := range [][]uuid.UUID{got, want} {
			slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		}
		if !slices.Equal(got, want) {
			t.Fatalf("devices of %v: %v, want %v", u, got, want)
		}
	}
	ranged := 0
	tab.Range(func(r Ref, e *Entry) bool {
		u, d := e.IDs()
		want, known := m.states[[2]uuid.UUID{u, d}]
		got, ok := e.Load()
		if !known || got != want || ok != (want.LSN != 0) {
			t.Fatalf("slot %d of (%v, %v) holds %+v, want %+v (known: %v)", r, u, d, got, want,
				known)
		}
		ranged++
		return true
	})
	if ranged != len(m.states) || tab.Len() != ranged || tab.Users() != users {
		t.Fatalf("%d devices and %d users in the model; Range told %d, Len %d, Users %d",
			len(m.states), users, ranged, tab.Len(), tab.Users())
	}
}

// TestTableAgainstMap compares every answer with a map's, those to a user's devices included
// (T5).
func TestTableAgainstMap(t *testing.T) {
	eachHash(t, Options{Shards: 4}, func(t *testing.T, tab *Table) {
		rng := testseed.Rand(t)
		commands := make([]byte, max(2000, rounds(20_000)))
		for i := range commands {
			commands[i] = byte(rng.Uint32())
		}
		runCommands(t, tab, commands)
	})
}

func FuzzTable(f *testing.F) {
	f.Add(byte(0), []byte{0, 1, 0x10, 1, 9, 1, 0, 2, 9, 1, 0, 1})
	f.Add(byte(1), []byte{8, 1, 14, 1, 9, 1, 14, 1, 0, 1, 0, 2, 0, 3, 10, 3, 0, 4})
	f.Add(byte(3),
		[]byte{0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 9, 1, 9, 3, 9, 8, 0, 9, 0, 1})
	names := []string{"keyed", "constant", "truncated", "last"}
	f.Fuzz(func(t *testing.T, hash byte, commands []byte) {
		tab := New(Options{Shards: 2, Hash: hashes[names[int(hash)%len(names)]]})
		defer tab.Close()
		runCommands(t, tab, commands)
		checkTable(t, tab)
	})
}
