package engine

import (
	"bytes"
	"cmp"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/internal/testseed"
	"rollcall/record"
)

// known is all that an engine knows but for LSNs, which do not survive an export.
type known struct {
	devices []Device
	users   map[uuid.UUID]table.Aggregate
}

func knownOf(d *devices) known {
	k := known{users: make(map[uuid.UUID]table.Aggregate)}
	d.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		if r, ok := d.record(entry); ok {
			r.LSN = 0
			k.devices = append(k.devices, r)
			u, _ := d.table.Aggregate(r.User)
			u.TurnLSN = min(u.TurnLSN, 1)
			k.users[r.User] = u
		}
		return true
	})
	slices.SortFunc(k.devices, func(a, b Device) int { return cmp.Compare(a.Seq, b.Seq) })
	return k
}

func (k known) compare(t *testing.T, got known, when string) {
	t.Helper()
	if !slices.Equal(k.devices, got.devices) {
		t.Errorf("%s: the devices are\n%+v\nwant\n%+v", when, got.devices, k.devices)
	}
	for user, want := range k.users {
		if got.users[user] != want {
			t.Errorf("%s: user %s is %+v, want %+v", when, user, got.users[user], want)
		}
	}
}

// mixed makes users with devices that go online, go offline, say so twice, and expire, each with a
// seq of its own.
func mixed(t *testing.T, d *disk, rng *rand.Rand, users, beats int) {
	ids := make([]*Heartbeat, 3*users)
	for i := range ids {
		ids[i] = newHeartbeat(0, 1)
		if i%3 > 0 {
			ids[i].User = ids[i-i%3].User
		}
	}
	for n := range beats {
		d.now.Add(rng.Int64N(int64(20 * time.Second)))
		hb := ids[rng.IntN(len(ids))]
		hb.Seq = uint64(n + 1)
		hb.Status, hb.TTLMS = Status(rng.IntN(3)&1), 1+rng.Uint64N(600_000)
		hb.Source = []byte([]string{"", "phone", "a longer name of a source"}[rng.IntN(3)])
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
		if n%40 == 0 {
			d.expiry.postponeExpiry(0)
			for d.expiry.turn(d.now.Load()) <= 0 {
			}
		}
	}
}

// exportAll exports in pages of about so many bytes.
func exportAll(t *testing.T, e *Engine, page int, each func(states []byte)) (pages int) {
	t.Helper()
	var next []byte
	for {
		states, after, err := e.Export(nil, next, page)
		if err != nil {
			t.Fatal(err)
		}
		if each(states); after == nil {
			return pages + 1
		}
		next, pages = after, pages+1
	}
}

// TestExport exports engines in pages of any size and imports them elsewhere: every device, last
// seen and aggregate is the same there, after a restart there, and in a log that only has the
// records, as a backup has. ROLLCALL_SEED replays one seed.
func TestExport(t *testing.T) {
	rng := testseed.Rand(t)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for n := 0; n < rounds && !t.Failed(); n++ {
		exportRound(t, rng.Uint64())
	}
}

func exportRound(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	from := openDisk(t, vfs.NewMem(), Options{}, 1)
	defer from.shut()
	mixed(t, from, rng, 1+rng.IntN(60), rng.IntN(600)) // also more than are copied without a rest
	want := knownOf(from.devices)

	to := openDisk(t, vfs.NewMem(), Options{}, from.now.Load())
	defer func() { to.shut() }()
	records := newMemLog()
	defer records.close()
	taken := 0
	exportAll(t, from.Engine, 1+rng.IntN(3000), func(states []byte) {
		EachState(states, func(rec []byte) bool {
			records.records = append(records.records, bytes.Clone(rec))
			return true
		})
		for range 1 + rng.IntN(2) { // the second changes nothing
			n, err := to.Import(states)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			taken += n
		}
	})
	if taken != len(want.devices) {
		t.Errorf("seed %d: %d devices taken, want %d", seed, taken, len(want.devices))
	}
	want.compare(t, knownOf(to.devices), "imported")
	if all := to.Stats(); all.Online != from.Stats().Online ||
		all.Offline != from.Stats().Offline ||
		all.UsersOnline != from.Stats().UsersOnline {
		t.Errorf("seed %d: counts %+v, want %+v", seed, all, from.Stats())
	}
	to.shut()
	to = openDisk(t, to.fs, Options{}, from.now.Load())
	want.compare(t, knownOf(to.devices), "recovered after the import")
	if rng.IntN(2) == 0 {
		to.checkpoint(t)
		to.shut()
		to = openDisk(t, to.fs, Options{}, from.now.Load())
		want.compare(t, knownOf(to.devices), "recovered from a checkpoint")
	}

	nothing := func(uint64, uint64, iter.Seq[[]byte], int64, time.Duration) {}
	if err := records.Start(nothing); err != nil { // so that close can end it
		t.Fatal(err)
	}
	recovered, err := Recover(records, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer recovered.Close()
	want.compare(t, knownOf(recovered.devices), "recovered from the records alone")
	n := 0
	err = recovered.EachExported(func(rec []byte) error { n++; return nil })
	if err != nil || n != len(records.records) {
		t.Errorf("seed %d: %d records exported again, %v, want %d", seed, n, err,
			len(records.records))
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// What a device has sent before an import came to it is newer than what the import says.
func TestImportLeavesWhatIsKnown(t *testing.T) {
	from := openDisk(t, vfs.NewMem(), Options{}, 1)
	defer from.shut()
	hb := newHeartbeat(7, 60_000)
	from.Heartbeat(hb)
	other := newHeartbeat(3, 60_000)
	other.User = hb.User
	from.Heartbeat(other)

	to := openDisk(t, vfs.NewMem(), Options{}, int64(time.Second))
	defer to.shut()
	hb.Seq = 8
	to.Heartbeat(hb)
	exportAll(t, from.Engine, 1<<20, func(states []byte) {
		if n, err := to.Import(states); n != 1 || err != nil {
			t.Errorf("%d devices taken, %v", n, err)
		}
	})
	k := knownOf(to.devices)
	if len(k.devices) != 2 || k.devices[0].Seq != 3 || k.devices[1].Seq != 8 {
		t.Errorf("devices %+v", k.devices)
	}
	if u := k.users[hb.User]; u.Online != 2 {
		t.Errorf("user %+v", u)
	}
}

// An imported device that stays silent goes offline when its ttl and the grace are over, not
// before.
func TestImportCountsSilence(t *testing.T) {
	from := openDisk(t, vfs.NewMem(), Options{}, 1)
	defer from.shut()
	from.Heartbeat(newHeartbeat(1, 60_000))
	to := openDisk(t, vfs.NewMem(), Options{RecoveryGrace: 10 * time.Second}, int64(time.Hour))
	defer to.shut()
	exportAll(t, from.Engine, 1<<20, func(states []byte) {
		if n, err := to.Import(states); n != 1 || err != nil {
			t.Fatalf("%d devices taken, %v", n, err)
		}
	})
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{9 * time.Second, 1}, {11 * time.Second, 0}} {
		to.now.Store(int64(time.Hour + c.after))
		for to.expiry.turn(to.now.Load()) <= 0 {
		}
		if online := to.Stats().Online; online != c.want {
			t.Errorf("%v after the import %d are online, want %d", c.after, online, c.want)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	to := openDisk(t, vfs.NewMem(), Options{}, 1)
	defer to.shut()
	hb := newHeartbeat(1, 60_000)
	s := record.State{Seq: 1, Online: true, TTLMS: 1}
	rec := record.Append(nil, hb.User, hb.Device, &s, nil)
	framed := append([]byte{byte(len(rec)), 0}, rec...)
	forget := record.AppendForget(nil, rec)
	for name, states := range map[string][]byte{
		"cut":         framed[:len(framed)-1],
		"a tail":      append(bytes.Clone(framed), 1),
		"forgotten":   append([]byte{byte(len(forget)), 0}, forget...),
		"not records": {1, 0, 9},
	} {
		if _, err := to.Import(states); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := to.Import(framed[:1]); !errors.Is(err, ErrNoStates) {
		t.Errorf("%v", err)
	}
	if n, err := to.Import(nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
}
