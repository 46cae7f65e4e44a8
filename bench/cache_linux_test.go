package bench

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dropCache takes the files of a directory out of the page cache. It needs no privilege.
func dropCache(b *testing.B, dir string) {
	for _, path := range filesIn(b, dir) {
		f, err := os.Open(path)
		if err == nil {
			// drops clean pages only, and synced ones are
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
