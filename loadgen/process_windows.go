package loadgen

import (
	"time"

	"golang.org/x/sys/windows"
)

// descriptorLimit returns false: Windows limits sockets by memory only.
func descriptorLimit() (limit uint64, ok bool) { return 0, false }

// ownCPU returns the CPU time of this process, 0 when it is not known.
func ownCPU() time.Duration {
	var created, exited, kernel, user windows.Filetime
	if windows.GetProcessTimes(windows.CurrentProcess(), &created, &exited, &kernel, &user) != nil {
		return 0
	}
	return elapsed(kernel) + elapsed(user)
}

// elapsed reads a Filetime that is a duration: a count of 100 ns.
func elapsed(t windows.Filetime) time.Duration {
	return 100 * time.Duration(int64(t.HighDateTime)<<32|int64(t.LowDateTime))
}
