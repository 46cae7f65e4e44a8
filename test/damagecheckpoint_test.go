package test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rollcall/internal/testtree"
)

// checkpointCases are damages of the checkpoint: each of its files missing, short and changed.
// {OVER} is what to do without a backup.
var checkpointCases = slices.Concat(
	fileCases("table", "*.sst"),
	fileCases("MANIFEST", "MANIFEST-*"),
	fileCases("OPTIONS", "OPTIONS-*"),
	fileCases("FILES", "FILES"),
	fileCases("marker of the manifest", "marker.manifest.*")[:1],
	fileCases("marker of the format", "marker.format-version.*")[:1],
	[]damageCase{
		{name: "the checkpoint's LOCK missing", bases: whole,
			harm: func(d *damaged) { d.remove(filepath.Join(checkpointDir, "LOCK")) }},
		{name: "checkpoint missing, the log begins with record 1", bases: whole,
			logs: "the checkpoint is missing; the log reaches back to record 1",
			harm: func(d *damaged) { d.check(os.RemoveAll(d.path(checkpointDir))) }},
		{name: "checkpoint missing, the log begins later", bases: onlyShort,
			harm: func(d *damaged) { d.check(os.RemoveAll(d.path(checkpointDir))) },
			says: []string{checkpointDir, "every device as of record",
				"it is missing, and the log begins with record", restore, "{OVER}"}},
		{name: "checkpoint empty, the log begins later", bases: onlyShort,
			harm: func(d *damaged) {
				d.check(os.RemoveAll(d.path(checkpointDir)), os.Mkdir(d.path(checkpointDir), 0o700))
			},
			says: []string{checkpointDir, "every device as of record", "it is missing", restore,
				"{OVER}"}},
		{name: "older checkpoint of the same server", bases: onlyShort,
			harm: func(d *damaged) {
				d.check(os.RemoveAll(d.path(checkpointDir)))
				copyDir(d.t, d.older(), d.path(checkpointDir))
			},
			says: []string{checkpointDir, "every device as of record", "it is as of record 40",
				"older than the one for which the log was shortened", restore, "{OVER}"}},
	},
)

// fileCases are what can happen to the files of the checkpoint of one kind. All of the kind are
// damaged, since some may be there that count no more.
func fileCases(kind, pattern string) []damageCase {
	each := func(do func(d *damaged, name string)) func(d *damaged) {
		return func(d *damaged) {
			for _, name := range d.glob(filepath.Join(checkpointDir, pattern)) {
				do(d, name)
			}
		}
	}
	says := []string{strings.Trim(pattern, "*"), "the checkpoint", "is damaged", restore, "{OVER}"}
	bases := []string{killedBase, shortBase}
	return []damageCase{
		{name: kind + " missing", bases: bases, says: says,
			harm: each(func(d *damaged, name string) { d.remove(name) })},
		{name: kind + " empty", bases: bases, says: says,
			harm: each(func(d *damaged, name string) { d.truncate(name, 0) })},
		{name: kind + " cut to half", bases: bases, says: says,
			harm: each(func(d *damaged, name string) {
				info, err := os.Stat(d.path(name))
				d.check(err)
				d.truncate(name, info.Size()/2)
			})},
		{name: "one bit of the " + kind + " flipped", bases: bases, says: says,
			harm: each(func(d *damaged, name string) { d.flip(name, 9) })},
	}
}

// foreignCases are parts of other directories.
var foreignCases = []damageCase{
	{name: "last segment of another server", bases: whole,
		harm: func(d *damaged) {
			d.check(copyFile(filepath.Join(d.other().dir, d.last().file), d.path(d.last().file)))
		},
		says: []string{"{LAST}", "another log", restore, startOver}},
	{name: "checkpoint of another server", bases: whole,
		harm: func(d *damaged) {
			d.check(os.RemoveAll(d.path(checkpointDir)))
			copyDir(d.t, filepath.Join(d.other().dir, checkpointDir), d.path(checkpointDir))
		},
		says: []string{checkpointDir, "parts of different servers", restore}},
}

// TestPortTaken: a server that finds its port taken leaves the directory as it was.
func TestPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, flag := range []string{"--listen=", "--admin-listen="} {
		d := baseDir(t, closedBase).copy(t)
		before := testtree.Of(t, d.dir)
		r, serves := d.trial(flag + ln.Addr().String())
		if serves || !strings.Contains(lastLine(r.logs()), "address already in use") {
			t.Errorf("serves: %v\n%s", serves, r.logs())
		}
		if diff := before.Changes(testtree.Of(t, d.dir)); diff != "" {
			t.Errorf("%s: the refused start changed the directory:\n%s", flag, diff)
		}
		d.dir = filepath.Join(t.TempDir(), "not", "there")
		if _, serves := d.trial(flag + ln.Addr().String()); serves {
			t.Error("it serves on a port that is taken")
		}
		if _, err := os.Stat(filepath.Dir(d.dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the refused start made a directory: %v", flag, err)
		}
	}
}
