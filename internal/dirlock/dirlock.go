package dirlock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
	"rollcall/internal/filelock"
)

// HeldError says that a directory is locked.
type HeldError struct {
	Dir string
	PID int // of the holder; 0: it cannot be told
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return "another process has locked " + e.Dir + "; its process id cannot be told"
	}
	return fmt.Sprintf("process %d has locked %s", e.PID, e.Dir)
}

// MovedError says that a path does not lead to what is locked.
type MovedError struct {
	Path  string
	Found string // what is there instead, and what should be
}

func (e *MovedError) Error() string { return e.Path + " " + e.Found }

// Lock is a locked directory. Check may be called from any goroutine, until Close or Abandon.
type Lock struct {
	fsys  vfs.FS
	path  string
	name  string   // of the file in it
	made  []string // what Take made, in the order in which it can be removed
	dir   vfs.File
	file  io.Closer
	inode struct{ dir, file inode } // zero: they have none
}

// Take locks a directory and the file with a name in it, and makes what is missing. A *HeldError
// says that the directory is locked, a *MovedError that it was replaced again and again meanwhile.
// After an error what it made is removed again.
func Take(fsys vfs.FS, dir, name string) (*Lock, error) {
	l, err := take(fsys, dir, name)
	if moved := (*MovedError)(nil); errors.As(err, &moved) {
		l, err = take(fsys, dir, name)
	}
	return l, err
}

func take(fsys vfs.FS, dir, name string) (_ *Lock, err error) {
	l := &Lock{fsys: fsys, path: dir, name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.undo(err))
		}
	}()
	if l.made, err = dirsync.Create(fsys, dir); err != nil {
		return nil, err
	}
	if l.dir, err = fsys.OpenDir(dir); err != nil {
		return nil, gone(dir, err)
	}
	if !filelock.Claim(l.dir) {
		return nil, &HeldError{Dir: dir, PID: holder(dir, name)}
	}
	if err := l.lockFile(); err != nil {
		return nil, gone(dir, err)
	}
	return l, l.Check()
}

// gone makes a *MovedError of a name that is not there any more.
func gone(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &MovedError{Path: dir, Found: "was removed while it was being locked"}
	}
	return err
}

func (l *Lock) join() string { return l.fsys.PathJoin(l.path, l.name) }

// lockName locks the file as the file system does it, which may know only that it is locked.
func (l *Lock) lockName() error {
	_, err := l.fsys.Stat(l.join())
	absent := errors.Is(err, fs.ErrNotExist)
	file, err := l.fsys.Lock(l.join())
	if path := (*fs.PathError)(nil); err != nil && !errors.As(err, &path) {
		return errors.Join(&HeldError{Dir: l.path}, err)
	}
	if err != nil {
		return err
	}
	l.file = file
	if absent {
		l.made = append([]string{l.join()}, l.made...)
	}
	return nil
}

// Abandon removes what Take made, unless something was put into it, and unlocks: a start that is
// refused leaves nothing behind.
func (l *Lock) Abandon() error { return l.undo(l.Check()) }

// undo is Abandon. It removes nothing when the path leads elsewhere: what is there is another's.
func (l *Lock) undo(moved error) error {
	if m := (*MovedError)(nil); !errors.As(moved, &m) {
		for _, path := range l.made {
			_ = l.fsys.Remove(path) // which fails when it is in use
		}
	}
	return l.Close()
}

// Close unlocks.
func (l *Lock) Close() error {
	var errs []error
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	if l.dir != nil {
		errs = append(errs, l.dir.Close())
	}
	return errors.Join(errs...)
}
