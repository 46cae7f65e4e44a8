package readonly

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestEveryChangeIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	made, err := mem.Create("file", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	fs := FS{mem}
	f, err := fs.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, written := f.Write([]byte("x"))
	_, writtenAt := f.WriteAt([]byte("x"), 0)
	_, synced := f.SyncTo(1)
	_, created := fs.Create("new", vfs.WriteCategoryUnspecified)
	_, opened := fs.OpenReadWrite("file", vfs.WriteCategoryUnspecified)
	_, reused := fs.ReuseForWrite("file", "new", vfs.WriteCategoryUnspecified)
	for name, err := range map[string]error{
		"Write": written, "WriteAt": writtenAt, "Sync": f.Sync(), "SyncData": f.SyncData(),
		"SyncTo": synced, "Preallocate": f.Preallocate(0, 1), "Create": created,
		"OpenReadWrite": opened, "ReuseForWrite": reused, "Link": fs.Link("file", "new"),
		"Remove": fs.Remove("file"), "RemoveAll": fs.RemoveAll("file"),
		"Rename": fs.Rename("file", "new"), "MkdirAll": fs.MkdirAll("new", 0o755),
	} {
		if !errors.Is(err, Err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir, err := fs.OpenDir("")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		t.Errorf("sync of a directory: %v", err)
	}
	lock, err := fs.Lock("LOCK")
	if err := errors.Join(err, lock.Close()); err != nil {
		t.Errorf("Lock: %v", err)
	}
	if names, err := fs.List(""); err != nil || len(names) != 1 {
		t.Errorf("%q, %v", names, err)
	}
}
