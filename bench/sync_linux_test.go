package bench

import (
	"os"
	"syscall"

	"rollcall/internal/eintr"
)

func fdatasync(f *os.File) error {
	return eintr.Retry(func() error { return syscall.Fdatasync(int(f.Fd())) })
}
