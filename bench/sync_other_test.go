//go:build !linux

package bench

import (
	"os"

	"rollcall/internal/eintr"
)

func fdatasync(f *os.File) error { return eintr.Retry(f.Sync) }
