package bench

import (
	"os"
	"syscall"
)

func fdatasync(f *os.File) error {
	return retry(func() error { return syscall.Fdatasync(int(f.Fd())) })
}
