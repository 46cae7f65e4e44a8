package testtree_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testtree"
)

// Every change shows, by its name, and nothing else does.
func TestChanges(t *testing.T) {
	old := time.Unix(1, 0)
	for want, change := range map[string]func(dir string) error{
		"":                  func(dir string) error { return os.Chtimes(dir+"/a", old, old) },
		"./new is new":      func(dir string) error { return os.Mkdir(dir+"/new", 0o700) },
		"./in/b is gone":    func(dir string) error { return os.Remove(dir + "/in/b") },
		"./a was -rw------": func(dir string) error { return os.WriteFile(dir+"/a", []byte("2"), 0o600) },
		"./in was d":        func(dir string) error { return os.Chmod(dir+"/in", 0o755) },
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(dir+"/in", 0o700), os.WriteFile(dir+"/a", []byte("1"), 0o600),
			os.WriteFile(dir+"/in/b", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		before := testtree.Of(t, dir)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		got := before.Changes(testtree.Of(t, dir))
		if !strings.HasPrefix(got, want) || strings.Contains(got, "\n") || (got == "") != (want == "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A directory that is not there has nothing in it.
func TestAbsent(t *testing.T) {
	if tree := testtree.Of(t, filepath.Join(t.TempDir(), "absent")); len(tree) != 0 {
		t.Errorf("%v", tree)
	}
}
