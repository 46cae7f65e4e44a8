package test

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// TestShortLives starts a server, sends one heartbeat and kills it, again and again: the data
// directory of one device stays small, and the heartbeats are there.
func TestShortLives(t *testing.T) {
	const lives, most = 60, 100e6
	user := uuid.NewString()
	b := newBeat().with("user_id", user)
	var r *rig
	largest := int64(0)
	for seq := 1; seq <= lives; seq++ {
		if r == nil {
			r = startServer(t)
		} else {
			r.start()
		}
		r.mustBeat(b.with("seq", seq))
		r.kill()
		n := directoryBytes(t, r.dir)
		if n > most {
			t.Fatalf("after %d lives the data directory has %d bytes", seq, n)
		}
		largest = max(largest, n)
	}
	t.Logf("%d lives, %d bytes at most", lives, largest)
	r.start()
	if got := snapshotSeqs(r, user)[b["device_id"].(string)]; got != lives {
		t.Errorf("the device stands at %d, want %d", got, lives)
	}
}

func directoryBytes(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
