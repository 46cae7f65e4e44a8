package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/checkpoint"
	"rollcall/internal/filelock"
	"rollcall/internal/readonly"
	"rollcall/internal/rootfs"
	"rollcall/wal"
)

// CheckpointDir is the name of the checkpoint's directory within the data directory.
const CheckpointDir = "checkpoint"

// View is a data directory to look at: a stopped server's, a backup, or one that a server uses
// meanwhile, which does not notice. It is a file system that only reads, through which the code of
// recovery reads. Single owner; doc.go says why it is whole.
type View struct {
	viewFS
	dir string
}

// errMoved: the directory changed while its files were being opened.
var errMoved = errors.New("it changed while it was being opened")

const (
	viewMaxWait = 30 * time.Second // for the directory to rest for the moment that opening takes
	viewPause   = 5 * time.Millisecond
)

// OpenView opens a data directory for reading only. fsys nil: the kernel's file system.
func OpenView(dir string, fsys vfs.FS) (*View, error) {
	if fsys == nil {
		fsys = rootfs.New(dir) // whose files, those of a copy too, repeat an interrupted sync
	}
	for began := time.Now(); ; time.Sleep(viewPause) {
		v, err := tryView(dir, fsys)
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, errMoved) || time.Since(began) > viewMaxWait {
			return nil, fmt.Errorf("datadir: look at %s: %w", dir, err)
		}
	}
}

func tryView(dir string, fsys vfs.FS) (_ *View, err error) {
	v := &View{viewFS{readonly.FS{Base: fsys}, make(map[string]*viewFile)}, fsys.PathJoin(dir)}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	before, err := v.stamp()
	if err != nil {
		return nil, err
	}
	if err := v.open(v.PathJoin(dir, CheckpointDir), checkpoint.IsContent); err != nil {
		return nil, err
	}
	if err := v.open(dir, isControl); err != nil {
		return nil, err
	}
	if err := v.open(dir, wal.IsSegment); err != nil {
		return nil, err
	}
	after, err := v.stamp()
	if err != nil {
		return nil, err
	}
	if before != after {
		return nil, errMoved
	}
	return v, nil
}

// stamp names the segments and the state of the checkpoint.
func (v *View) stamp() (string, error) {
	names, err := v.Base.List(v.dir)
	if err != nil {
		return "", err
	}
	segments := slices.DeleteFunc(names, func(name string) bool { return !wal.IsSegment(name) })
	slices.Sort(segments)
	store, err := checkpoint.Stamp(v.Base, v.PathJoin(v.dir, CheckpointDir))
	if errors.Is(err, checkpoint.ErrMoved) {
		return "", errMoved
	}
	return strings.Join(append(segments, store), "\n"), err
}

// open opens the wanted files of one directory, which need not be there.
func (v *View) open(dir string, want func(name string) bool) error {
	names, err := v.Base.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if !want(name) {
			continue
		}
		if err := v.openFile(v.PathJoin(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) openFile(path string) error {
	file, err := v.Base.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errMoved
	}
	if err != nil {
		return err
	}
	if !filelock.Share(file) { // the server is recycling it
		return errors.Join(errMoved, file.Close())
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	v.files[path] = &viewFile{readonly.File{File: file}, info}
	if isControl(v.PathBase(path)) {
		return v.freeze(path)
	}
	return nil
}

// isControl reports whether a file is the log's control file, by its name.
func isControl(name string) bool { return name == wal.ControlName }

// freeze reads a file whole, in place of what a server writes to it later.
func (v *View) freeze(path string) error {
	f := v.files[path]
	content := make([]byte, f.info.Size())
	if _, err := f.File.ReadAt(content, 0); err != nil && err != io.EOF {
		return err
	}
	f.File.File = frozenFile{f.File.File, bytes.NewReader(content)}
	return nil
}

// Log returns the log in the view, for reading only (see wal.OpenReadOnly).
func (v *View) Log(logger *slog.Logger) (*wal.Log, error) {
	return wal.OpenReadOnly(v.dir, wal.Options{FS: v, Logger: logger})
}

// Checkpoint returns the checkpoint in the view, for reading only; nil when none was ever begun.
// The log is the view's, with which it must belong together, as for Open.
func (v *View) Checkpoint(log *wal.Log, logger *slog.Logger) (*checkpoint.Store, error) {
	o := checkpoint.Options{FS: v, Rebuild: log.First() == 1, Logger: logger}
	store, err := checkpoint.Open(v.PathJoin(v.dir, CheckpointDir), o)
	if err != nil {
		return nil, err
	}
	if log.Damage() == nil { // else that is what is wrong, and Replay says it
		err = match(v.dir, log, store, o)
	}
	if err != nil || !store.Exists() {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// Empty says that the directory holds neither a log nor a checkpoint.
func (v *View) Empty() bool { return len(v.files) == 0 }

// Bytes is the size of all files.
func (v *View) Bytes() (n int64) {
	for _, f := range v.files {
		n += f.info.Size()
	}
	return n
}

// Close closes the files. Logs and checkpoints of the view must be closed before.
func (v *View) Close() error {
	var errs []error
	for _, f := range v.files {
		errs = append(errs, f.File.Close())
	}
	return errors.Join(errs...)
}
