package checkpoint

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// openStore opens a store and makes it writable.
func openStore(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	return startStore(t, Options{FS: fs, Logger: slog.New(slog.DiscardHandler)})
}

func startStore(t *testing.T, o Options) *Store {
	t.Helper()
	c, err := Open("checkpoint", o)
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// replace fills [lo, hi) with keys of one letter each.
func replace(t *testing.T, c *Store, lo, hi string, pairs ...string) {
	t.Helper()
	err := c.Replace([]byte(lo), end(hi), func(yield func(k, v []byte) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield([]byte(pairs[i]), []byte(pairs[i+1])) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// install puts what was replaced in its place.
func install(t *testing.T, c *Store) {
	t.Helper()
	if err := c.Install(); err != nil {
		t.Fatal(err)
	}
}

func end(hi string) []byte {
	if hi == "" {
		return nil
	}
	return []byte(hi)
}

func content(t *testing.T, c *Store, lo, hi string) (pairs []string) {
	t.Helper()
	err := c.Load([]byte(lo), end(hi), func(k, v []byte) error {
		pairs = append(pairs, string(k), string(v))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pairs
}

func want(t *testing.T, c *Store, pairs ...string) {
	t.Helper()
	if got := content(t, c, "", ""); !slices.Equal(got, pairs) {
		t.Errorf("content %q, want %q", got, pairs)
	}
}

func TestCheckpointReplace(t *testing.T) {
	fs := vfs.NewMem()
	c := openStore(t, fs)
	if c.LSN() != 0 {
		t.Errorf("a new checkpoint is as of %d", c.LSN())
	}
	want(t, c)
	replace(t, c, "a", "c", "a", "1", "b", "2")
	replace(t, c, "c", "", "c", "3", "d", "4")
	if err := c.Commit(7); err != nil {
		t.Fatal(err)
	}
	want(t, c, "a", "1", "b", "2", "c", "3", "d", "4")
	replace(t, c, "a", "c", "b", "5")
	replace(t, c, "c", "")
	want(t, c, "a", "1", "b", "2", "c", "3", "d", "4") // as before, until it is installed
	install(t, c)
	want(t, c, "b", "5")
	if got := content(t, c, "c", ""); got != nil {
		t.Errorf("range beyond: %q", got)
	}
	if err := c.Commit(9); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openStore(t, fs)
	defer c.Close()
	want(t, c, "b", "5")
	if c.LSN() != 9 {
		t.Errorf("as of %d, want 9", c.LSN())
	}
}

// TestReplacedStoreCommitsNothing: a store whose manifest is not there any more, since another
// directory was put in its place, takes no checkpoint, for which the log would be shortened.
func TestReplacedStoreCommitsNothing(t *testing.T) {
	for _, prefix := range []string{manifestPrefix, markerPrefix} {
		mem := vfs.NewMem()
		c := openStore(t, mem)
		replace(t, c, "a", "c", "a", "1")
		if err := c.Commit(7); err != nil {
			t.Fatal(err)
		}
		names, err := mem.List("checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		name := newest(names, prefix)
		if err := mem.Remove(mem.PathJoin("checkpoint", name)); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{"Commit": c.Commit(9), "Close": c.Close()} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s without %s: %v", what, name, err)
			}
		}
	}
}

func TestCheckpointSecret(t *testing.T) {
	fs := vfs.NewMem()
	c := openStore(t, fs)
	first, err := c.Secret(func() []byte { return []byte("first") })
	if err != nil || string(first) != "first" {
		t.Fatalf("%q %v", first, err)
	}
	c.Close()
	c = openStore(t, fs)
	defer c.Close()
	if again, err := c.Secret(func() []byte { return []byte("second") }); err != nil || string(again) != "first" {
		t.Errorf("after a restart: %q %v", again, err)
	}
}

func TestCheckpointNewerVersion(t *testing.T) {
	fs := vfs.NewMem()
	c := openStore(t, fs)
	if err := c.set(versionKey, []byte{formatVersion + 1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	var newer *VersionError
	o := Options{FS: fs, Logger: slog.New(slog.DiscardHandler)}
	if _, err := Open("checkpoint", o); !errors.As(err, &newer) {
		t.Errorf("error %v", err)
	}
}

// TestCheckpointCrash loses everything unsynced at random moments: what was committed is there, as
// of its LSN.
func TestCheckpointCrash(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		fs := vfs.NewCrashableMem()
		c := openStore(t, fs)
		rounds := rng.IntN(4)
		for lsn := 1; lsn <= rounds; lsn++ {
			replace(t, c, "a", "b", "a", fmt.Sprint(lsn))
			replace(t, c, "b", "", "b", fmt.Sprint(lsn))
			if err := c.Commit(uint64(lsn)); err != nil {
				t.Fatal(err)
			}
		}
		half := rng.IntN(2) == 0
		if half {
			replace(t, c, "a", "b", "a", "half") // newer than the LSN says, which is allowed
			install(t, c)
		}
		if rng.IntN(2) == 0 {
			replace(t, c, "b", "", "b", "never installed")
		}
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}
		crashed := openStore(t, fs.CrashClone(cfg))
		if crashed.LSN() != uint64(rounds) {
			t.Fatalf("seed %d: as of %d, want %d", seed, crashed.LSN(), rounds)
		}
		a, b := fmt.Sprint(rounds), fmt.Sprint(rounds)
		if half {
			a = "half"
		}
		if rounds > 0 {
			want(t, crashed, "a", a, "b", b)
		}
		crashed.Close()
		c.Close()
	}
}

// TestCheckpointFullDisk: a full disk is an error, at once, and the next attempt succeeds.
func TestCheckpointFullDisk(t *testing.T) {
	full := new(atomic.Bool)
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && !strings.Contains(op.Path, "MANIFEST") {
			return syscall.ENOSPC
		}
		return nil
	}))
	c := openStore(t, fs)
	defer c.Close()
	full.Store(true)
	if err := c.Commit(5); !errors.Is(err, syscall.ENOSPC) || c.LSN() != 0 {
		t.Errorf("Commit on a full disk: %v, as of %d", err, c.LSN())
	}
	full.Store(false)
	if err := c.Commit(6); err != nil || c.LSN() != 6 {
		t.Errorf("Commit afterwards: %v, as of %d", err, c.LSN())
	}
}
