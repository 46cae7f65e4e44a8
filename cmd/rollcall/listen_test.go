package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortDir is a directory whose paths fit into a socket's address, which holds some hundred bytes.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "rc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestListenPublicKeepsWhatIsNotItsOwn: only a socket that no process listens on is taken over.
func TestListenPublicKeepsWhatIsNotItsOwn(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenPublic("unix:"+file, "660"); err == nil ||
		!strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if _, err := listenPublic("unix:"+link, "660"); err == nil {
		t.Error("a symbolic link was followed")
	}
	path := filepath.Join(dir, "s")
	ln, err := listenPublic("unix:"+path, "666")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := listenPublic("unix:"+path, "660"); err == nil ||
		!strings.Contains(err.Error(), "another process listens") {
		t.Errorf("a socket in use: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "x" {
		t.Errorf("the file is %q, %v", text, err)
	}
	for _, mode := range []string{"", "8", "1777", "rw"} {
		if _, err := socketMode(mode); err == nil {
			t.Errorf("mode %q was taken", mode)
		}
	}
}
