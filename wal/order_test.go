package wal

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// orderCheck watches the writes and syncs of segments and remembers what breaks W4 and W10.
type orderCheck struct {
	mu       sync.Mutex
	unsynced string          // the segment with bytes that are not synced; "": none
	begun    map[string]bool // by path: the header is written
	durable  map[string]bool // and synced
	copies   int             // of the control file that were synced since the last header was
	wrong    string
}

func (c *orderCheck) see(op errorfs.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasSuffix(op.Path, ControlName) && op.Kind == errorfs.OpFileSyncData {
		c.copies++
	}
	if !strings.HasSuffix(op.Path, segmentSuffix) {
		return
	}
	switch {
	case op.Kind == errorfs.OpFileSyncData:
		if op.Path == c.unsynced && !c.durable[op.Path] {
			c.copies = 0
		}
		c.durable[op.Path] = c.begun[op.Path]
		c.unsynced = ""
	case op.Kind != errorfs.OpFileWriteAt:
	case op.Offset == 0:
		if c.unsynced != "" {
			c.wrong = "the header of " + op.Path + " is written before " + c.unsynced + " is synced"
		}
		c.begun[op.Path], c.unsynced = true, op.Path
	default:
		if !c.durable[op.Path] {
			c.wrong = "a block of " + op.Path + " is written before its header is durable"
		}
		if c.copies < controlSlots {
			c.wrong = "a block of " + op.Path + " is written before the control file names it"
		}
		c.unsynced = op.Path
	}
}

// A header is durable before the first block behind it, and everything in a segment before the next
// header, in every sync mode (W4); and between header and block the control file names the segment,
// in both copies (W10).
func TestOrderOfWrites(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			c := &orderCheck{begun: map[string]bool{}, durable: map[string]bool{}}
			o := small(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				c.see(op)
				return nil
			})))
			o.Sync, o.SyncInterval = mode, time.Millisecond
			l := start(t, o)
			for _, record := range numbered(100, 1000) {
				if err := acknowledge(l, addQuietly(t, l, record)); err != nil {
					t.Fatal(err)
				}
			}
			closeLog(t, l)
			if c.wrong != "" {
				t.Error(c.wrong)
			}
			if len(c.begun) < 5 {
				t.Errorf("only %d segments were begun", len(c.begun))
			}
		})
	}
}
