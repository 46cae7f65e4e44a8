// Package testtree tells in tests whether a directory was changed, and what in it.
package testtree

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Tree is what lay in a directory: of each thing below it and of itself, by name, the mode, and
// the size and a hash of a file's content. It can be compared with others of the same process.
type Tree map[string]string

var seed = maphash.MakeSeed()

// Of returns what lies in a directory now; of one that is not there, nothing.
func Of(t testing.TB, dir string) Tree {
	t.Helper()
	tree := Tree{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil {
			return err
		}
		tree["."+strings.TrimPrefix(path, dir)], err = describe(path, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func describe(path string, e fs.DirEntry) (string, error) {
	info, err := e.Info()
	if err != nil {
		return "", err
	}
	if !e.Type().IsRegular() {
		return info.Mode().String(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var h maphash.Hash
	h.SetSeed(seed)
	n, err := io.Copy(&h, f)
	return fmt.Sprintf("%v, %d bytes, %x", info.Mode(), n, h.Sum64()), err
}

// Changes names what is not the same in a later tree; "" when nothing.
func (before Tree) Changes(after Tree) string {
	var lines []string
	for name, was := range before {
		if is, ok := after[name]; !ok {
			lines = append(lines, name+" is gone")
		} else if is != was {
			lines = append(lines, fmt.Sprintf("%s was %s, is %s", name, was, is))
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			lines = append(lines, name+" is new")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
