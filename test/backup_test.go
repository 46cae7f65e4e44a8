package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/testtree"
	"rollcall/internal/testwait"
)

// TestKilledBackup: what a backup that was killed leaves is not served, not copied and not taken
// for an empty directory, at whatever point it was.
func TestKilledBackup(t *testing.T) {
	atLeisure(t)
	source := baseDir(t, closedBase)
	for _, reached := range []string{controlFile, checkpointDir, "00000000000000000001.wal"} {
		d := killedBackup(t, source, reached)
		before := testtree.Of(t, d.dir)
		r, serves := d.trial()
		code, out, errs := tool(t, "inspect", d.dir)
		target := filepath.Join(t.TempDir(), "copy")
		again, _, refused := tool(t, "backup", d.dir, target)
		if serves || code != 1 || again != 1 {
			t.Errorf("killed at %s: serves: %v, inspect %d, backup %d", reached, serves, code, again)
		}
		for by, text := range map[string]string{"serve": lastLine(r.logs()), "inspect": out + errs, "backup": refused} {
			for _, want := range []string{"a copy that was never finished", "make the backup again"} {
				if !strings.Contains(text, want) {
					t.Errorf("killed at %s: %s does not say %q:\n%s", reached, by, want, text)
				}
			}
		}
		if diff := before.Changes(testtree.Of(t, d.dir)); diff != "" {
			t.Errorf("killed at %s: it was changed:\n%s", reached, diff)
		}
	}
}

// killedBackup kills a backup of a base once a file of the copy is there, and returns what is left.
func killedBackup(t *testing.T, source *base, reached string) *damaged {
	t.Helper()
	for range 20 {
		target := filepath.Join(t.TempDir(), "copy")
		d := &damaged{base: source, t: t, dir: target + ".partial"}
		cmd := exec.Command(binary, "backup", source.dir, target)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testwait.Until(t, "the backup made "+reached, func() bool {
			_, err := os.Stat(d.path(reached))
			_, finished := os.Stat(target)
			return err == nil || finished == nil
		})
		cmd.Process.Kill()
		cmd.Wait()
		if _, err := os.Stat(d.dir); err == nil {
			return d
		}
	}
	t.Fatal("each backup was faster than its end")
	return nil
}

// TestBackupIntoItsOwnSource: a backup within the data directory, or around it, under any name, is
// refused before anything is made or removed.
func TestBackupIntoItsOwnSource(t *testing.T) {
	top := t.TempDir()
	around := filepath.Join(top, "around.partial")
	data := filepath.Join(around, "data")
	r := startServerIn(t, data)
	r.mustBeat(newBeat())
	r.terminate()
	elsewhere := filepath.Join(top, "elsewhere")
	for _, err := range []error{
		os.Symlink(data, filepath.Join(top, "link")),
		os.Rename(filepath.Join(data, "checkpoint"), elsewhere),
		os.Symlink(elsewhere, filepath.Join(data, "checkpoint")),
		os.Mkdir(filepath.Join(data, "empty"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, top)
	for name, target := range map[string]string{
		"within":                         filepath.Join(data, "copy"),
		"deep within":                    filepath.Join(data, "not", "there", "copy"),
		"an empty directory within":      filepath.Join(data, "empty"),
		"through a link":                 filepath.Join(top, "link", "copy"),
		"through dots":                   filepath.Join(top, "link") + "/../around.partial/data/copy",
		"the directory":                  data,
		"a link to it":                   filepath.Join(top, "link"),
		"around it":                      around,
		"where its unfinished copy is":   strings.TrimSuffix(around, ".partial"),
		"where its checkpoint is":        filepath.Join(elsewhere, "copy"),
		"where its checkpoint is linked": filepath.Join(data, "checkpoint", "copy"),
	} {
		for _, dir := range []string{data, filepath.Join(top, "link")} {
			code, _, errs := tool(t, "backup", dir, target)
			if code != 1 || !strings.Contains(errs, "lies in the other: name a directory outside of it") {
				t.Errorf("%s: exit status %d, %s", name, code, errs)
			}
		}
	}
	if after := tree(t, top); after != before {
		t.Errorf("something changed:\n%s\nbefore:\n%s", after, before)
	}
	if code, _, errs := tool(t, "backup", data, filepath.Join(top, "copy")); code != 0 {
		t.Errorf("beside it: exit status %d, %s", code, errs)
	}
}
