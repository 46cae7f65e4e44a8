package loadgen

import (
	"fmt"
	"time"
)

// checkDescriptors refuses a run that the process may not open enough sockets for.
func (o *Options) checkDescriptors() error {
	const others = 32
	sockets := o.Connections + o.streams()
	need := sockets + o.Workers*activeChecks + others
	if limit, ok := descriptorLimit(); ok && uint64(need) > limit {
		return fmt.Errorf("loadgen: %d connections and streams need %d descriptors, and the limit "+
			"is %d: "+
			"raise it (ulimit -n), or start several generators", sockets, need, limit)
	}
	return nil
}

// cpuMeter measures the generator's own CPU.
type cpuMeter struct {
	from         time.Time
	before, used time.Duration
	elapsed      time.Duration
}

func (m *cpuMeter) start() {
	m.from, m.before = time.Now(), ownCPU()
}

func (m *cpuMeter) stop() {
	if !m.from.IsZero() {
		m.used, m.elapsed = ownCPU()-m.before, time.Since(m.from)
	}
}
