package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rollcall/internal/testseed"
	"rollcall/internal/testtree"
)

// damageRounds is how often TestRandomDamage damages a directory. ROLLCALL_DAMAGE_ROUNDS raises it.
func damageRounds(t *testing.T) int {
	return testseed.Rounds(t, "ROLLCALL_DAMAGE_ROUNDS", 30, 30)
}

// TestRandomDamage does something to some file of a directory, and starts a server: either it
// refuses and has changed nothing, or each device stands where it was acknowledged. There is no
// third way, but for records of the last second before a kill, when the last segment is hit.
// inspect judges as the server does.
func TestRandomDamage(t *testing.T) {
	atLeisure(t)
	rng := testseed.Rand(t)
	names := []string{closedBase, killedBase, struckBase, shortBase}
	for _, name := range names {
		baseDir(t, name)
	}
	refused, served := 0, 0
	for round := range damageRounds(t) {
		d := baseDir(t, names[rng.IntN(len(names))]).copy(t)
		what, untold := d.harmAtRandom(rng)
		before := testtree.Of(t, d.dir)
		code, shown, _ := tool(t, "inspect", d.dir, "--devices", "0")
		r, serves := d.trial()
		if serves != (code == 0) {
			t.Errorf("round %d: %s: serves: %v, inspect exits with %d:\n%s%s", round, what, serves, code, shown, r.logs())
		}
		if serves {
			served++
			d.judgeSeqs(fmt.Sprintf("round %d: %s: serve", round, what), untold, snapshotSeqs(r, d.user))
			r.kill()
		} else {
			refused++
			if diff := before.Changes(testtree.Of(t, d.dir)); diff != "" {
				t.Errorf("round %d: %s: the refused start changed the directory:\n%s", round, what, diff)
			}
			says := lastLine(r.logs())
			if !strings.Contains(says, "rollcall: error: ") || !strings.Contains(says, d.dir) {
				t.Errorf("round %d: %s: the refusal does not say where: %s", round, what, says)
			}
		}
		os.RemoveAll(d.dir)
	}
	t.Logf("%d refused, %d served", refused, served)
}

// harmAtRandom damages one file, or exchanges it. untold: it is the last segment, of whose
// end the control file may know nothing.
func (d *damaged) harmAtRandom(rng *rand.Rand) (what string, untold bool) {
	files := append(d.glob("*"), d.glob(filepath.Join(checkpointDir, "*"))...)
	files = slices.DeleteFunc(files, func(name string) bool {
		info, err := os.Stat(d.path(name))
		d.check(err)
		return info.IsDir()
	})
	file := files[rng.IntN(len(files))]
	info, err := os.Stat(d.path(file))
	d.check(err)
	size := info.Size()
	// Somewhere in the file, more often where there is something in it.
	at := rng.Int64N(size + 1)
	for _, s := range d.segments {
		if s.file == file && rng.IntN(3) > 0 {
			at = rng.Int64N(max(s.used, 8192))
		}
	}
	rest := size - at
	length := min(rest, 1+rng.Int64N(1<<(1+rng.IntN(20))))
	kind := rng.IntN(7)
	if rest == 0 && kind < 3 {
		kind += 3
	}
	switch kind {
	case 0:
		what = "a bit flipped"
		bit := byte(1) << rng.IntN(8)
		d.change(file, func(b []byte) { b[at] ^= bit })
	case 1:
		what = "zeros"
		d.zero(file, at, at+length)
	case 2:
		what = "noise"
		d.change(file, func(b []byte) {
			for i := range length {
				b[at+i] = byte(rng.Uint32())
			}
		})
	case 3:
		what = "cut off"
		d.truncate(file, at)
	case 4:
		what = "removed"
		d.remove(file)
	case 5:
		what = "made longer"
		d.truncate(file, size+1+length)
	case 6:
		other := files[rng.IntN(len(files))]
		what = "exchanged with " + other
		d.check(os.Rename(d.path(file), d.path("x")))
		if other != file {
			d.check(os.Rename(d.path(other), d.path(file)))
		}
		d.check(os.Rename(d.path("x"), d.path(other)))
	}
	return fmt.Sprintf("%s: %s of %d bytes, %s at %d, %d bytes", filepath.Base(d.base.dir), file, size,
		what, at, length), file == d.last().file
}
