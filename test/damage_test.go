package test

import (
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/testtree"
)

// damageCase is one kind of damage, what a server, inspect and backup make of it, and what they
// say.
type damageCase struct {
	name  string
	bases []string // of each one a copy is damaged
	harm  func(d *damaged)
	// says are parts of the message with which all three refuse. {LAST}, {MIDDLE} and {FIRST} are
	// files. None: a server starts, and knows everything that was acknowledged.
	says []string
	// untold: nothing that is left calls the damaged records durable, as with the unfinished end
	// of a crash, and they are lost.
	untold bool
	logs   string // what a server logs that starts
}

// What an operator is advised to do.
const (
	restore   = "from a backup"
	startOver = "move the directory away and start on an empty one"
)

var (
	whole     = []string{closedBase, killedBase}
	struck    = []string{struckBase}
	anyBase   = []string{closedBase, killedBase, shortBase}
	onlyShut  = []string{closedBase}
	onlyShort = []string{shortBase}
)

// TestDamage holds the table of docs/durability.md: damage × {inspect, backup, serve}. What is
// refused is refused by all three, with the same message, and changes no byte of the directory;
// inspect and backup never do.
func TestDamage(t *testing.T) {
	atLeisure(t)
	for _, name := range []string{closedBase, killedBase, struckBase, shortBase} {
		baseDir(t, name)
	}
	for _, table := range [][]damageCase{logCases, controlCases, checkpointCases, foreignCases} {
		for _, c := range table {
			for _, name := range c.bases {
				t.Run(c.name+"/"+name, func(t *testing.T) {
					t.Parallel()
					d := baseDir(t, name).copy(t)
					c.harm(d)
					d.judge(c)
				})
			}
		}
	}
}

// judge runs inspect, backup and serve on a damaged directory.
func (d *damaged) judge(c damageCase) {
	d.t.Helper()
	before := testtree.Of(d.t, d.dir)
	unchanged := func(by string) {
		d.t.Helper()
		if diff := before.Changes(testtree.Of(d.t, d.dir)); diff != "" {
			d.t.Errorf("%s changed the directory:\n%s", by, diff)
		}
	}
	code, out, errs := tool(d.t, "inspect", d.dir, "--devices", "0")
	d.judgeText("inspect", c, code, out+errs)
	unchanged("inspect")

	target := filepath.Join(d.t.TempDir(), "copy")
	code, out, errs = tool(d.t, "backup", d.dir, target)
	d.judgeText("backup", c, code, out+errs)
	unchanged("backup")
	if left, _ := filepath.Glob(target + "*"); c.says != nil && left != nil {
		d.t.Errorf("the refused backup left %v", left)
	}

	r, serves := d.trial()
	if c.says != nil {
		if serves {
			d.t.Fatalf("serve starts, want %q", c.says)
		}
		d.judgeText("serve", c, r.proc.Cmd.ProcessState.ExitCode(), lastLine(r.logs()))
		unchanged("the refused serve")
		return
	}
	if !serves {
		d.t.Fatalf("serve does not start:\n%s", r.logs())
	}
	if !strings.Contains(r.logs(), c.logs) {
		d.t.Errorf("serve does not log %q:\n%s", c.logs, r.logs())
	}
	d.judgeSeqs("serve", c.untold, snapshotSeqs(r, d.user))
	r.terminate()
	d.judgeSeqs("the backup", c.untold, inspect(d.t, 0, target, "--devices=-1").devices())
	d.judgeSeqs("inspect after the stop", c.untold, inspect(d.t, 0, d.dir, "--devices=-1").devices())
}

// judgeText checks an exit status and a message.
func (d *damaged) judgeText(by string, c damageCase, code int, text string) {
	d.t.Helper()
	want := 0
	if c.says != nil {
		want = 1
	}
	if code != want {
		d.t.Errorf("%s: exit status %d, want %d\n%s", by, code, want, text)
	}
	over := "the log reaches back to record 1, and everything is made again from it"
	if d.segments[0].first > 1 {
		over = startOver
	}
	files := strings.NewReplacer("{LAST}", d.last().file, "{MIDDLE}", d.middle().file,
		"{FIRST}", d.first().file, "{OVER}", over)
	for _, part := range c.says {
		if part = files.Replace(part); !strings.Contains(text, part) {
			d.t.Errorf("%s does not say %q:\n%s", by, part, text)
		}
	}
}

// judgeSeqs checks that devices stand where they were acknowledged. untold: the last records may be
// missing, those that the control file does not call durable.
func (d *damaged) judgeSeqs(by string, untold bool, seqs map[string]int) {
	d.t.Helper()
	missing, allowed := 0, 0
	if untold {
		allowed = d.untold
	}
	for device, acked := range d.acked {
		missing += max(0, acked-seqs[device]) // each heartbeat raised a seq by one
	}
	if missing > allowed {
		d.t.Errorf("%s: %d heartbeats are missing, %d may be: %s", by, missing, allowed, d.lacks(seqs))
	}
}
