package engine

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/datadir"
	"rollcall/wal"
)

// beatThrough sends heartbeats of new devices until the log has committed an LSN.
func (d *disk) beatThrough(t *testing.T, lsn uint64) {
	t.Helper()
	for d.log.Appended() < lsn {
		if res := d.Heartbeat(newHeartbeat(1, 60_000)); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
	}
}

func (d *disk) cursorAt(lsn uint64) []byte {
	return d.History().Append(nil, cursor.Cursor{LSN: lsn})
}

func (d *disk) wantHonoured(t *testing.T, text []byte, want bool, what string, args ...any) {
	t.Helper()
	if _, ok := d.History().Parse(text); ok != want {
		t.Errorf("%s: honoured %v, want %v", fmt.Sprintf(what, args...), ok, want)
	}
}

// as returns a file system in which the directory "data" is what another one is here.
func as(t *testing.T, fs *vfs.MemFS, dir string) *vfs.MemFS {
	t.Helper()
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	if dir == "data" {
		return fs
	}
	if err := fs.RemoveAll("data"); err != nil {
		t.Fatal(err)
	}
	if err := fs.Rename(dir, "data"); err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestHistoryBranchesWithCopies: a directory, a backup of it and a copy of its files honour each
// other's cursors up to where they parted, and their own (Q1).
func TestHistoryBranchesWithCopies(t *testing.T) {
	fs := vfs.NewCrashableMem()
	quiet := slog.New(slog.DiscardHandler)
	open := func(fs *vfs.MemFS) *disk {
		d := openDiskOn(t, fs, wal.Options{}, Options{}, new(atomic.Int64))
		t.Cleanup(d.shut)
		return d
	}
	original := openDiskOn(t, fs, wal.Options{}, Options{}, new(atomic.Int64))
	original.beatThrough(t, 5)
	original.checkpoint(t)
	original.beatThrough(t, 8)
	view, err := datadir.OpenView("data", fs)
	if err != nil {
		t.Fatal(err)
	}
	if err := datadir.Copy(view, "copy", quiet, new(datadir.Copied)); err != nil {
		t.Fatal(err)
	}
	view.Close()
	backup, files := open(as(t, fs, "copy")), open(as(t, fs, "data"))
	if backup.log.Appended() != 8 || files.log.Appended() != 8 {
		t.Fatalf("the backup ends at %d, the copy at %d", backup.log.Appended(),
			files.log.Appended())
	}
	original.beatThrough(t, 12)
	running := original.cursorAt(12)
	original.wantHonoured(t, running, true, "the running epoch")
	before, between := original.cursorAt(8), original.cursorAt(9)
	original.shut()
	original = open(fs)
	for _, d := range []*disk{original, backup, files} {
		d.beatThrough(t, 20)
	}
	for i, d := range []*disk{original, backup, files} {
		d.wantHonoured(t, before, true, "%d: from before the copies", i)
		d.wantHonoured(t, between, i == 0, "%d: the original's, right behind the copies", i)
		d.wantHonoured(t, running, i == 0, "%d: the original's, behind the copies", i)
		for j, other := range []*disk{original, backup, files} {
			d.wantHonoured(t, other.cursorAt(20), i == j, "%d: the cursor of %d", i, j)
			d.wantHonoured(t, other.cursorAt(21), false, "%d: ahead of what is committed", i)
		}
	}
}

// TestHistoryLosesItsTail: without a sync for each record a crash takes the log's tail, and others
// follow under its LSNs: cursors of what was lost are refused, all others honoured (Q1, Q2).
func TestHistoryLosesItsTail(t *testing.T) {
	for _, sync := range []wal.SyncMode{wal.SyncNever, wal.SyncInterval} {
		fs := vfs.NewCrashableMem()
		o := wal.Options{Sync: sync, SyncInterval: time.Hour}
		d := openDiskOn(t, fs, o, Options{}, new(atomic.Int64))
		d.beatThrough(t, 5)
		d.checkpoint(t) // which syncs
		d.beatThrough(t, 9)
		var told [][]byte
		for lsn := range uint64(10) {
			told = append(told, d.cursorAt(lsn))
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		d.shut()
		d = openDiskOn(t, crashed, o, Options{}, new(atomic.Int64))
		left := d.log.Appended()
		if left < 5 || left >= 9 {
			t.Fatalf("sync=%v: the crash left the log at %d", sync, left)
		}
		d.beatThrough(t, 20)
		for lsn, text := range told {
			d.wantHonoured(t, text, uint64(lsn) <= left, "sync=%v, LSN %d of %d", sync, lsn, left)
		}
		d.shut()
	}
}

// TestHistoryOfManyStarts (Q5): a list of starts that is bounded, and the newest honoured.
func TestHistoryOfManyStarts(t *testing.T) {
	fs := vfs.NewCrashableMem()
	const starts = cursor.MaxEpochs + 44
	var told [starts][]byte
	for i := range told {
		d := openDiskOn(t, fs, wal.Options{}, Options{}, new(atomic.Int64))
		told[i] = d.cursorAt(d.log.Committed())
		if i%50 == 49 {
			d.beatThrough(t, d.log.Appended()+1)
			d.checkpoint(t)
		}
		if i == starts-1 {
			list, err := d.store.Epochs()
			if err != nil || len(list) != cursor.MaxEpochs*16 {
				t.Errorf("the list has %d bytes, %v", len(list), err)
			}
			for n, text := range told {
				d.wantHonoured(t, text, n >= starts-cursor.MaxEpochs, "start %d", n)
			}
		}
		d.shut()
	}
}

// TestForgottenSurvives (Q4): that a device was forgotten is known after a crash before, in and
// after the next checkpoint, and in a backup.
func TestForgottenSurvives(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{ForgetAfter: time.Hour}
	var now atomic.Int64
	now.Store(1)
	d := openDiskOn(t, fs, wal.Options{}, o, &now)
	gone := d.offline(t)
	other := uuid.New()
	d.checkpoint(t)
	d.beatThrough(t, 7)
	if lsn := d.History().Forgotten(gone.User); lsn != 0 {
		t.Fatalf("forgotten at %d already", lsn)
	}
	want := func(fs *vfs.MemFS, what string) {
		t.Helper()
		d := openDiskOn(t, fs, wal.Options{}, o, &now)
		defer d.shut()
		if lsn := d.History().Forgotten(gone.User); lsn != 8 {
			t.Errorf("%s: forgotten at %d, want 8", what, lsn)
		}
		if lsn := d.History().Forgotten(other); lsn != 0 {
			t.Errorf("%s: another user's at %d", what, lsn)
		}
	}
	now.Add(int64(2 * time.Hour))
	middles := 0
	d.store.after = func() { // a range was written, and nothing is committed
		if d.History().Forgotten(gone.User) == 0 {
			return
		}
		middles++
		if err := d.log.Sync(d.log.Appended()); err != nil {
			t.Fatal(err)
		}
		want(fs.CrashClone(vfs.CrashCloneCfg{}), "in the middle of the checkpoint")
	}
	d.checkpoint(t)
	if d.store.after = nil; middles == 0 {
		t.Error("there was no middle")
	}
	want(fs.CrashClone(vfs.CrashCloneCfg{}), "after it")
	d.beatThrough(t, 11)
	d.checkpoint(t)
	d.shut()
	want(fs.CrashClone(vfs.CrashCloneCfg{}), "after the next one")
	view, err := datadir.OpenView("data", fs)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	quiet := slog.New(slog.DiscardHandler)
	if err := datadir.Copy(view, "copy", quiet, new(datadir.Copied)); err != nil {
		t.Fatal(err)
	}
	want(as(t, fs, "copy"), "in a backup")
}

// olderStore is a store of a version that kept no list of what was forgotten.
type olderStore struct{ *hookedStore }

func (olderStore) Forgotten() ([]byte, error) { return nil, nil }

// TestForgottenOfOlderVersions: of a directory without a list any device may have been forgotten
// through the LSN of its checkpoint; the first checkpoint makes the list.
func TestForgottenOfOlderVersions(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, 1)
	d.beatThrough(t, 6)
	d.checkpoint(t)
	d.beatThrough(t, 9)
	d.checkpoints.store = olderStore{d.store}
	if err := d.checkpoints.loadHistory(); err != nil {
		t.Fatal(err)
	}
	user := uuid.New()
	if lsn := d.History().Forgotten(user); lsn != 6 {
		t.Errorf("%d, want 6", lsn)
	}
	d.checkpoint(t)
	d.shut()
	d = openDisk(t, fs, Options{}, 1)
	defer d.shut()
	if lsn := d.History().Forgotten(user); lsn != 6 {
		t.Errorf("after the next start %d, want 6", lsn)
	}
}
