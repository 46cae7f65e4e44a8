package datadir

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"rollcall/checkpoint"
	"rollcall/wal"
)

// Layers say facts, Advise adds what can be done, and keeps the error.
func TestAdvise(t *testing.T) {
	for _, c := range []struct {
		err  error
		want []string
	}{
		{&wal.CorruptionError{Dir: "data", Path: "data/1.wal", Err: errors.New("bad")}, []string{"Restore data from a backup", "move"}},
		{&wal.MissingError{Dir: "data", After: 7}, []string{"Put the segments back", "backup", "empty one"}},
		{&checkpoint.DamagedError{Path: "data/checkpoint/1.sst", Err: errors.New("bad")},
			[]string{"Restore the data directory from a backup", "empty one"}},
		{&wal.VersionError{Path: "p", Found: 2, Reads: 1}, []string{"start the version that wrote it"}},
		{&checkpoint.VersionError{Path: "p", Found: 2, Reads: 1}, []string{"start the version that wrote it"}},
		{wal.ErrIncomplete, []string{"remove it and make the backup again"}},
		{checkpoint.ErrFailed, []string{"check the disk and start again"}},
	} {
		wrapped := fmt.Errorf("engine: recovery: %w", c.err)
		got := Advise(wrapped)
		if !errors.Is(got, c.err) || !strings.HasPrefix(got.Error(), wrapped.Error()) {
			t.Errorf("%T: %v", c.err, got)
		}
		for _, want := range c.want {
			if !strings.Contains(got.Error(), want) || strings.Contains(wrapped.Error(), want) {
				t.Errorf("%T: %q is not in the advice alone: %v", c.err, want, got)
			}
		}
	}
	other := errors.New("other")
	if got := Advise(other); got != other {
		t.Errorf("another error became %v", got)
	}
	if got := Advise(nil); got != nil {
		t.Errorf("no error became %v", got)
	}
}
