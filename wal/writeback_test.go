package wal

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestWriteBackKeepsUp: in the modes that do not sync each batch the operating system is asked for
// each part of a segment while it fills, once and in order: at most a step is left for the sync at
// its end. In SyncAlways it is asked for nothing.
func TestWriteBackKeepsUp(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			o := Options{FS: vfs.NewMem(), Sync: mode, SyncInterval: time.Hour}
			l := open(t, o)
			var file vfs.File
			var end int64
			asked := 0
			l.committer.writer.writeBack = func(f vfs.File, offset, n int64) {
				if f != file {
					file, end = f, 0
				}
				if offset != end || n < writeBackBytes || n%pageBytes != 0 {
					t.Errorf("asked for %d bytes at %d behind %d", n, offset, end)
				}
				end += n
				asked++
			}
			if err := l.Start(nil); err != nil {
				t.Fatal(err)
			}
			defer closeLog(t, l)
			record := make([]byte, 60_000)
			for range 400 { // three segments
				if err := l.Reserve(len(record), time.Minute); err != nil {
					t.Fatal(err)
				}
				if err := l.Commit(l.Append(record, 0)); err != nil {
					t.Fatal(err)
				}
				s := l.committer.writer.segment // no turn is in flight
				if mode != SyncAlways && s.used-s.writtenBack >= writeBackBytes+pageBytes {
					t.Fatalf("%d of %d bytes are asked for", s.writtenBack, s.used)
				}
			}
			if (asked > 0) != (mode != SyncAlways) {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}
