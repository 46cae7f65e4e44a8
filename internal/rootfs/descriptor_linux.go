package rootfs

import (
	"os"
	"strconv"
)

// descriptorPath returns a path that leads to an open directory wherever it is moved to; false:
// /proc is not there, or is not what it is called.
func descriptorPath(dir *os.File) (string, bool) {
	path := "/proc/self/fd/" + strconv.FormatUint(uint64(dir.Fd()), 10)
	want, err := dir.Stat()
	if err != nil {
		return "", false
	}
	got, err := os.Stat(path)
	return path, err == nil && os.SameFile(got, want)
}
