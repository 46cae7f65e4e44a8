//go:build linux || darwin || freebsd

package dirlock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"rollcall/internal/eintr"
)

// inode is a file, whatever its name. The zero inode is none.
type inode struct{ device, number uint64 }

func (i inode) String() string { return fmt.Sprintf("inode %d", i.number) }

// inodeOf returns what a descriptor is of; zero: f has none.
func inodeOf(f vfs.File) (inode, error) {
	if f.Fd() == vfs.InvalidFd {
		return inode{}, nil
	}
	var s unix.Stat_t
	if err := eintr.Retry(func() error { return unix.Fstat(int(f.Fd()), &s) }); err != nil {
		return inode{}, err
	}
	return inode{uint64(s.Dev), s.Ino}, nil
}

// inodeAt returns what a path leads to.
func inodeAt(path string) (inode, error) {
	var s unix.Stat_t
	if err := eintr.Retry(func() error { return unix.Stat(path, &s) }); err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return inode{uint64(s.Dev), s.Ino}, nil
}

// held are the files that this process has locked. The kernel does not tell a process of its own
// locks, and gives all of them up when the process closes any descriptor of the file: so a file
// that is in here must not even be opened.
var held struct {
	mu     sync.Mutex
	inodes map[inode]bool // guarded by mu
}

// processLock is a file that is locked for this process.
type processLock struct {
	file  vfs.File
	inode inode
}

func (p *processLock) Close() error {
	held.mu.Lock()
	defer held.mu.Unlock()
	delete(held.inodes, p.inode)
	return p.file.Close()
}

// lockFile locks the file, after the directory.
func (l *Lock) lockFile() (err error) {
	if l.inode.dir, err = inodeOf(l.dir); err != nil {
		return err
	}
	if l.inode.dir == (inode{}) {
		return l.lockName()
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	there, err := inodeAt(l.join())
	if err == nil && held.inodes[there] {
		return &HeldError{Dir: l.path, PID: os.Getpid()}
	}
	absent := errors.Is(err, fs.ErrNotExist)
	f, err := l.fsys.OpenReadWrite(l.join(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = eintr.Retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock) })
	if err == unix.EAGAIN || err == unix.EACCES {
		pid, _ := ownerOf(f.Fd())
		return errors.Join(&HeldError{Dir: l.path, PID: pid}, f.Close())
	}
	if err != nil {
		return errors.Join(&fs.PathError{Op: "lock", Path: l.join(), Err: err}, f.Close())
	}
	if l.inode.file, err = inodeOf(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if held.inodes == nil {
		held.inodes = map[inode]bool{}
	}
	held.inodes[l.inode.file] = true
	l.file = &processLock{f, l.inode.file}
	if absent {
		l.made = append([]string{l.join()}, l.made...)
	}
	return nil
}

// ownerOf returns the process that has locked a file; 0: none, or this one, or it cannot be told.
func ownerOf(fd uintptr) (pid int, err error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = eintr.Retry(func() error { return unix.FcntlFlock(fd, unix.F_GETLK, &lock) })
	if err != nil || lock.Type == unix.F_UNLCK {
		return 0, err
	}
	return max(int(lock.Pid), 0), nil
}

// Check returns a *MovedError when the path does not lead to the directory and the file that are
// locked. An error of looking is none: it does not say that they are gone.
func (l *Lock) Check() error {
	if l.inode.dir == (inode{}) {
		return nil
	}
	if err := check(l.path, l.inode.dir); err != nil {
		return err
	}
	return check(filepath.Join(l.path, l.name), l.inode.file)
}

func check(path string, want inode) error {
	got, err := inodeAt(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return &MovedError{path, fmt.Sprintf("is gone; %v is what was locked", want)}
	case err == nil && got != want:
		return &MovedError{path, fmt.Sprintf("is another one now: %v; %v is what was locked", got, want)}
	}
	return nil
}

// Holder returns the process that has locked a directory; 0: none, or it cannot be told. It takes
// nothing and leaves nothing.
func Holder(dir, name string) (pid int, err error) {
	held.mu.Lock()
	defer held.mu.Unlock()
	path := filepath.Join(dir, name)
	there, err := inodeAt(path)
	if err == nil {
		if held.inodes[there] {
			return os.Getpid(), nil
		}
		pid, err = holderOfFile(path)
	}
	if pid != 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pid, err
	}
	// The file may have been removed.
	there, err = inodeAt(dir)
	if err != nil {
		return 0, nil
	}
	return flockHolder(there), nil
}

// holder is Holder for an error that there is already.
func holder(dir, name string) int {
	pid, _ := Holder(dir, name)
	return pid
}

func holderOfFile(path string) (pid int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return ownerOf(f.Fd())
}
