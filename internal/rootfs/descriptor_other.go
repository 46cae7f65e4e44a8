//go:build !linux

package rootfs

import "os"

// descriptorPath returns false: this system has no such paths.
func descriptorPath(*os.File) (string, bool) { return "", false }
