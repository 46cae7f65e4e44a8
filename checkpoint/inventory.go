package checkpoint

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

// Pebble reads a manifest up to the first record that it cannot read, as after a crash, and takes a
// manifest that was cut short for an older state of the store. It does not miss its options. So the
// store keeps a list of its own, the file FILES, of what must be there at least.

// filesFile is the name of the list, filesTemp the name under which a new one is written.
const (
	filesFile = "FILES"
	filesTemp = "FILES.tmp"
)

// inventory is what FILES says: all of it was on stable storage before it was written. Names with a
// number only grow: a file of a higher number may have taken a file's place since.
type inventory struct {
	manifest, marker string // the manifest, and the marker that names it
	manifestBytes    int64  // of the manifest that were synced; it only grows
	format           string // the marker of the format
	options          string // the file of options,
	optionsBytes     int64  // its size
	optionsSum       uint32 // and its checksum
}

const inventoryFormat = `rollcall checkpoint, format version 2: files that must be there
manifest %s %d
marker %s
format %s
options %s %d %08x
`

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the text of the file: the list, and a line with its CRC-32C.
func (v inventory) encode() []byte {
	b := fmt.Appendf(nil, inventoryFormat, v.manifest, v.manifestBytes, v.marker, v.format,
		v.options, v.optionsBytes, v.optionsSum)
	return fmt.Appendf(b, "crc32c %08x\n", crc32.Checksum(b, castagnoli))
}

var errChecksum = errors.New("it does not match its checksum")

func decodeInventory(b []byte) (v inventory, err error) {
	_, err = fmt.Sscanf(string(b), inventoryFormat, &v.manifest, &v.manifestBytes, &v.marker,
		&v.format, &v.options, &v.optionsBytes, &v.optionsSum)
	if err != nil || string(v.encode()) != string(b) {
		return v, errChecksum
	}
	return v, nil
}

// keeper keeps the inventory of an open store, and writes it.
type keeper struct {
	fs  vfs.FS
	dir string

	mu      sync.Mutex
	now     inventory     // guarded by mu: what must be there
	written inventory     // guarded by mu: what FILES says
	begun   *manifestFile // guarded by mu: the manifest that was created last
	counts  *manifestFile // guarded by mu: the manifest that counts; nil: none of this process
	marker  string        // guarded by mu: the marker that was created last
}

// read takes up FILES; found is false when there is none.
func (k *keeper) read() (found bool, err error) {
	b, err := readFile(k.fs, k.fs.PathJoin(k.dir, filesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	k.now, err = decodeInventory(b)
	k.written = k.now
	return true, err
}

// settle takes up what Pebble has made durable by opening the store for writing: options and
// format.
func (k *keeper) settle() error {
	names, err := k.fs.List(k.dir)
	if err != nil {
		return err
	}
	options := newest(names, optionsPrefix)
	b, err := readFile(k.fs, k.fs.PathJoin(k.dir, options))
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.format = newest(names, formatPrefix)
	k.now.options = options
	k.now.optionsBytes, k.now.optionsSum = int64(len(b)), crc32.Checksum(b, castagnoli)
	return nil
}

// write makes FILES say what must be there, when it says something else.
func (k *keeper) write() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counts != nil {
		k.now.manifestBytes = k.counts.synced.Load()
	}
	if k.now == k.written {
		return nil
	}
	if err := k.lookLocked(); err != nil {
		return err
	}
	if err := writeFile(k.fs, k.dir, filesTemp, filesFile, k.now.encode()); err != nil {
		return fmt.Errorf("checkpoint: write %s: %w", filesFile, err)
	}
	k.written = k.now
	return nil
}

// lookLocked looks whether manifest and marker are there under their names: a store whose directory
// was removed or replaced writes tables that count nowhere, and the log must not be shortened for
// them. Pebble removes an old one of them after moved only.
func (k *keeper) lookLocked() error {
	if k.counts == nil { // FILES may be behind
		return nil
	}
	for _, name := range []string{k.now.manifest, k.now.marker} {
		_, err := k.fs.Stat(k.fs.PathJoin(k.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("checkpoint: %s of %s was removed or replaced under the store",
				name, k.dir)
		}
	}
	return nil
}

// creating takes note of a file that Pebble creates, and returns it as Pebble is to have it.
func (k *keeper) creating(name string, file vfs.File) vfs.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case strings.HasPrefix(name, markerPrefix):
		k.marker = name
	case strings.HasPrefix(name, manifestPrefix):
		k.begun = &manifestFile{File: file, name: name}
		return k.begun
	}
	return file
}

// moved says that the manifest that was created last counts from now on: its marker is durable.
func (k *keeper) moved() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counts = k.begun
	k.now.manifest, k.now.marker = k.begun.name, k.marker
}

// behind says that FILES names another manifest than the one that counts.
func (k *keeper) behind() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now.manifest != k.written.manifest
}

func readFile(fsys vfs.FS, path string) (_ []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

// writeFile makes a file hold these bytes, durably: the old ones or the new ones, whatever happens.
func writeFile(fsys vfs.FS, dir, temp, name string, b []byte) error {
	path := fsys.PathJoin(dir, temp)
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(path, fsys.PathJoin(dir, name)); err != nil {
		return err
	}
	return dirsync.Sync(fsys, dir)
}
