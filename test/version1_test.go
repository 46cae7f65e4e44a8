package test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rollcall/internal/testseed"
	"rollcall/internal/testtree"
)

// version1 holds two data directories that the last server of format version 1 left: closed in
// order, and killed. In both, a checkpoint as of record 6 holds 5 devices, and the log goes on to
// record 10. LOCK was there, other files were not.
const version1 = "../datadir/testdata/version1.tar.gz"

// version1Seqs is what both directories hold, by user and device.
var version1Seqs = map[string]map[string]int{
	version1ID(1): {
		version1ID(101): 9, version1ID(102): 2, version1ID(103): 3, version1ID(104): 4,
		version1ID(105): 6,
	},
	version1ID(2): {version1ID(206): 6, version1ID(207): 7, version1ID(208): 8},
}

func version1ID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// unpackVersion1 returns one of the directories.
func unpackVersion1(t *testing.T, kind string) *damaged {
	t.Helper()
	return unpackOld(t, version1, kind)
}

// unpackOld returns one of the directories of an archive.
func unpackOld(t *testing.T, archive, kind string) *damaged {
	t.Helper()
	top := t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for all := tar.NewReader(unzipped); ; {
		h, err := all.Next()
		if err == io.EOF {
			return &damaged{t: t, dir: filepath.Join(top, kind)}
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(top, h.Name)
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(path, 0o755)
		} else {
			var content []byte
			content, err = io.ReadAll(all)
			err = errors.Join(err, os.WriteFile(path, content, 0o644), os.Truncate(path, h.Size))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wantVersion1 checks what a server on the directory knows.
func wantVersion1(t *testing.T, r *rig) {
	t.Helper()
	for user, want := range version1Seqs {
		if got := snapshotSeqs(r, user); !holds(got, want) {
			t.Errorf("user %s: %v, want %v", user, got, want)
		}
	}
}

// holds reports whether devices stand where they are expected; others may be there.
func holds(got, want map[string]int) bool {
	for device, seq := range want {
		if got[device] != seq {
			return false
		}
	}
	return true
}

// forgetNothing: the directories grow older than any device that is offline.
const forgetNothing = "--forget-after=1000000h"

// TestVersion1 reads, copies and upgrades a directory of format version 1.
func TestVersion1(t *testing.T) {
	atLeisure(t)
	all := map[string]int{}
	for _, devices := range version1Seqs {
		maps.Copy(all, devices)
	}
	for _, kind := range []string{"closed", "killed"} {
		t.Run(kind, func(t *testing.T) {
			d := unpackVersion1(t, kind)
			before := testtree.Of(t, d.dir)
			unchanged := func(by string) {
				t.Helper()
				if diff := before.Changes(testtree.Of(t, d.dir)); diff != "" {
					t.Errorf("%s changed the directory:\n%s", by, diff)
				}
			}
			if got := inspect(t, 0, d.dir, "--devices=-1").devices(); !maps.Equal(got, all) {
				t.Errorf("inspect: %v", got)
			}
			unchanged("inspect")
			target := filepath.Join(t.TempDir(), "copy")
			if code, _, errs := tool(t, "backup", d.dir, target); code != 0 {
				t.Errorf("backup: exit status %d, %s", code, errs)
			}
			unchanged("backup")
			if got := inspect(t, 0, target, "--devices=-1").devices(); !maps.Equal(got, all) {
				t.Errorf("the backup: %v", got)
			}
			for start := range 3 {
				r, serves := d.trial(forgetNothing)
				if !serves {
					t.Fatalf("start %d:\n%s", start, r.logs())
				}
				wantVersion1(t, r)
				r.terminate()
				d.wantVersion2()
			}
			found := inspect(t, 0, d.dir, "--devices=-1")
			if !holds(found.devices(), all) {
				t.Errorf("after the upgrade: %v", found.devices())
			}
		})
	}
}

// wantVersion2 checks that a directory has a control file, and that its newest segment is of
// version 2.
func (d *damaged) wantVersion2() {
	d.t.Helper()
	segments := d.glob("0*.wal")
	newest, err := os.ReadFile(d.path(segments[len(segments)-1]))
	d.check(err)
	if _, err := os.Stat(d.path(controlFile)); err != nil || newest[8] != 2 {
		d.t.Errorf("%s is of version %d; control file: %v", segments[len(segments)-1], newest[8], err)
	}
}

// TestVersion1Crash kills a server with SIGKILL at random instants of its first start on a
// directory of version 1, again and again: what is left starts, with everything.
func TestVersion1Crash(t *testing.T) {
	atLeisure(t)
	rng := testseed.Rand(t)
	for _, kind := range []string{"closed", "killed"} {
		original := unpackVersion1(t, kind)
		for range 6 {
			d := &damaged{t: t, dir: filepath.Join(t.TempDir(), "data")}
			copyDir(t, original.dir, d.dir)
			for range 3 {
				r := &rig{t: t, dir: d.dir, flags: []string{forgetNothing, "--checkpoint-interval=50ms"}, env: secretsEnv}
				cmd := r.command()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				// the moment of the crash, not a wait for anything
				time.Sleep(time.Duration(rng.IntN(120)) * time.Millisecond)
				cmd.Process.Kill()
				cmd.Wait()
			}
			r, serves := d.trial(forgetNothing)
			if !serves {
				t.Fatalf("it does not start after crashes:\n%s", r.logs())
			}
			wantVersion1(t, r)
			r.terminate()
			d.wantVersion2()
		}
	}
}
