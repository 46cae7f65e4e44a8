package wal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Prepare needs what Replay finds out, and a log that was started or closed begins no other segment
// with it.
func TestPrepareInTurn(t *testing.T) {
	fs := vfs.NewMem()
	l := open(t, small(fs))
	func() {
		defer func() {
			if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "bug: wal: ") {
				t.Errorf("before Replay it panics with %s", p)
			}
		}()
		t.Errorf("before Replay: %v", l.Prepare())
	}()
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Prepare(); err != ErrClosed {
		t.Errorf("after Start: %v", err)
	}
	closeLog(t, l)
	if err := l.Prepare(); err != ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	if _, err := fs.Stat(dir + "/" + freshName); err == nil {
		t.Errorf("%s was made", freshName)
	}
}
