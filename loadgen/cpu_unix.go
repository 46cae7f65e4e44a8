package loadgen

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// cpuMeter measures the generator's own CPU.
type cpuMeter struct {
	mu           sync.Mutex
	from         time.Time
	before, used time.Duration
	elapsed      time.Duration
}

func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (m *cpuMeter) start() {
	m.from, m.before = time.Now(), ownCPU()
}

func (m *cpuMeter) stop() {
	if !m.from.IsZero() {
		m.used, m.elapsed = ownCPU()-m.before, time.Since(m.from)
	}
}
