package datadir

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"rollcall/wal"
)

// TestWrite: what was written is read back, and what was not written to its end is no data
// directory.
func TestWrite(t *testing.T) {
	for name, breaks := range map[string]error{"whole": nil, "cut": errors.New("no more")} {
		at := filepath.Join(t.TempDir(), "data")
		var written, found Copied
		err := Write(at, quiet, &written, func(add func([]byte) error) error {
			for i := range 5000 {
				if err := add(fmt.Appendf(nil, "record %d", i)); err != nil {
					return err
				}
			}
			return breaks
		})
		if !errors.Is(err, breaks) {
			t.Fatal(err)
		}
		v, err := OpenView(at, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = v.Walk(quiet, &found)
		if breaks != nil {
			if !errors.Is(err, wal.ErrIncomplete) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || found.Records.Load() != 5000 || written.Records.Load() != 5000 {
			t.Errorf("%s: %d of %d records, %v", name, found.Records.Load(), written.Records.Load(), err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}
