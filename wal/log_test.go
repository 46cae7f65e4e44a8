package wal

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestAppendReplay(t *testing.T) {
	fs := vfs.NewMem()
	var want []string
	for round := range 3 {
		l, err := Open("a/b/wal", Options{FS: fs, BufferBytes: 4096, SegmentBytes: 16384})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := l.Replay(0, func(lsn uint64, record []byte) error {
			got = append(got, string(record))
			if int(lsn) != len(got) {
				t.Fatalf("lsn %d at %d", lsn, len(got))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
		if err := l.Start(nil); err != nil {
			t.Fatal(err)
		}
		for i := range 3000 {
			s := fmt.Sprintf("%d-%d", round, i)
			if err := l.Reserve(len(s), 1e9); err != nil {
				t.Fatal(err)
			}
			lsn := l.Append([]byte(s))
			want = append(want, s)
			if int(lsn) != len(want) {
				t.Fatalf("lsn %d, want %d", lsn, len(want))
			}
			if i%100 == 0 {
				if err := l.Wait(lsn); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
