//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// createForOwner makes every file and directory that the process creates from now on its user's
// alone, unless it is given other permissions (umask): a data directory holds user ids and the key
// of a hash.
func createForOwner() { unix.Umask(0o077) }

// ownedByThisUser reports whether a file belongs to the user of the process.
func ownedByThisUser(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// descriptorLimit returns how many descriptors the process may have open.
func descriptorLimit() (uint64, bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true
}

// raiseDescriptorLimit raises the soft and the hard limit, which needs privileges, and reports
// whether it could.
func raiseDescriptorLimit(n uint64) bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return false
	}
	setLimit(&limit.Cur, n)
	if uint64(limit.Max) < n {
		setLimit(&limit.Max, n)
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil
}

// setLimit spans the systems, on some of which limits are signed.
func setLimit[T int64 | uint64](field *T, n uint64) { *field = T(n) }

// processorTime returns how much of the processors the process has used.
func processorTime() (time.Duration, bool) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}

// terminalColumns returns the width of a terminal, 0 when f is none.
func terminalColumns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// shellCommand returns a command that the system's shell runs.
func shellCommand(text string) *exec.Cmd { return exec.Command("sh", "-c", text) }

// ownGroup starts a command in a process group of its own: what the terminal sends to this one does
// not reach it.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
