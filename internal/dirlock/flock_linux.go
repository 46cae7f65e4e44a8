package dirlock

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// flockHolder returns the process that holds a lock of flock(2), from /proc/locks (proc_locks(5));
// 0: none, or it cannot be told. A file system that gives its files other device numbers than its
// own, as Btrfs does, is not found there.
func flockHolder(of inode) (pid int) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close()
	at := fmt.Sprintf("%02x:%02x:%d", unix.Major(of.device), unix.Minor(of.device), of.number)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 7: FLOCK  ADVISORY  WRITE 4711 fe:00:7865 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != at {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
