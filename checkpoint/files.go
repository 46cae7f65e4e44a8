package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What a reader beside a running server must know of the store's files, which are Pebble's.

// IsContent reports whether a file of the store's directory holds content: not its lock, and no
// file that is not finished.
func IsContent(name string) bool { return name != "LOCK" && !strings.HasSuffix(name, ".tmp") }

// ErrMoved: the store changed while Stamp looked at it.
var ErrMoved = errors.New("checkpoint: it changed meanwhile")

// Stamp names the state of the store in a directory: the manifests with their sizes, the options
// and the markers. A manifest only grows, by each change of the store. No directory: no store, and
// an empty stamp.
func Stamp(fsys vfs.FS, dir string) (string, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var stamp []string
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "marker."), strings.HasPrefix(name, optionsPrefix):
			stamp = append(stamp, name)
		case strings.HasPrefix(name, manifestPrefix):
			info, err := fsys.Stat(fsys.PathJoin(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				return "", ErrMoved
			}
			if err != nil {
				return "", err
			}
			stamp = append(stamp, fmt.Sprintf("%s %d", name, info.Size()))
		}
	}
	slices.Sort(stamp)
	return strings.Join(stamp, "\n"), nil
}
