package loadgen

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// checkDescriptors refuses a run that the process may not open enough sockets for.
func (o *Options) checkDescriptors() error {
	const others = 32
	need := o.Connections + int(float64(o.Users)*o.StreamsPerUser) + o.Workers*activeChecks + others
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && uint64(need) > uint64(limit.Cur) {
		return fmt.Errorf("loadgen: %d connections and streams need %d descriptors, and the limit is %d: raise it (ulimit -n), or "+
			"start several generators", o.Connections+int(float64(o.Users)*o.StreamsPerUser), need, limit.Cur)
	}
	return nil
}

// cpuMeter measures the generator's own CPU.
type cpuMeter struct {
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
