package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// What the server takes, measured in a cgroup with devices that keep coming. docs/capacity.md has
// what a device takes on average; here it is the most: one device to a user, and the indexes just
// after they grew.
const (
	// baseBytes is the program, the buffers of log, checkpoints and broadcaster, the caches of the
	// store, and the slots that shards hold without a device.
	baseBytes = 48 << 20
	// heapBaseBytes is the part of it on Go's heap.
	heapBaseBytes = 24 << 20
	// entryBytes of a device are outside of Go's heap, so that GOMEMLIMIT does not count them.
	entryBytes = 96
	// deviceHeapBytes of a device are on Go's heap: its words in two indexes, up to 37 bytes, its
	// timer, up to 32 while a recovery arms all of them, what the collector has not freed yet, and
	// its user's aggregate: 77 on average, and up to 101 just after its map grew.
	deviceHeapBytes = 80 + 101
	deviceBytes     = entryBytes + deviceHeapBytes
	// sourceHeapBytes are on Go's heap for each distinct source text: 128 bytes of text and up to
	// 90 of its place in two indexes. Each device may have one of its own.
	sourceHeapBytes = 220

	// clusterBytes is what a node of a cluster takes more, all of it on Go's heap: the server of
	// the replicated logs, an engine without a device for each partition, what is on its way to
	// others.
	clusterBytes = 64 << 20

	// leastDevices may always be known, however little memory there is.
	leastDevices = 1000
	// mostDevices is what the table can address.
	mostDevices = 1 << 31
)

// memory is what the process may take.
type memory struct {
	limit  uint64 // in bytes, of the process; 0: unknown
	source string // where it was found
	// heap is GOMEMLIMIT, the operator's word about Go's heap alone; 0: not set
	heap int64
	err  error // the cgroup's limit could not be read
	// clustered says that the process is a node of a cluster. It may hold the devices of the users
	// that it owns and, once more, those of the users that its streams follow.
	clustered bool
}

// processMemory finds the limit of this process.
func processMemory(clustered bool) memory {
	heap := int64(0)
	if os.Getenv("GOMEMLIMIT") != "" {
		heap = debug.SetMemoryLimit(-1)
	}
	m := memoryOf(memlimit.FromCgroup, memlimit.FromSystem, heap)
	m.clustered = clustered
	return m
}

// memoryOf takes the lower of two limits: of the cgroup, with those above it, and of the machine.
func memoryOf(cgroup, machine memlimit.Provider, heap int64) memory {
	m := memory{heap: heap}
	if bytes, err := machine(); err == nil {
		m.limit, m.source = bytes, "the machine's memory"
	}
	bytes, err := cgroup()
	switch {
	case err == nil && (m.limit == 0 || bytes < m.limit):
		m.limit, m.source = bytes, "the cgroup's limit"
	case err == nil, errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup),
		errors.Is(err, memlimit.ErrCgroupsNotSupported), errors.Is(err, os.ErrNotExist):
	default:
		m.err = err
	}
	return m
}

// devices is how many devices fit, each with a source of its own, so that no sender can make them
// take more; 0: no limit is known. A quarter of what the server does not need for itself is left to
// connections, streams, the kernel's side of them, and files.
func (m memory) devices() int {
	if m.limit == 0 && !m.heapLimited() {
		return 0
	}
	n := uint64(mostDevices)
	if m.limit > 0 {
		n = min(n, above(m.limit, m.base())/4*3/(deviceBytes+sourceHeapBytes))
	}
	if m.heapLimited() {
		n = min(n, above(uint64(m.heap), m.heapBase())/(deviceHeapBytes+sourceHeapBytes))
	}
	if m.clustered {
		n /= 2
	}
	return int(max(n, leastDevices))
}

// base is what the process takes without a device, and heapBase the part of it on Go's heap.
func (m memory) base() uint64 { return baseBytes - heapBaseBytes + m.heapBase() }

func (m memory) heapBase() uint64 {
	if m.clustered {
		return heapBaseBytes + clusterBytes
	}
	return heapBaseBytes
}

// heapLimited reports whether GOMEMLIMIT is set and not "off".
func (m memory) heapLimited() bool { return 0 < m.heap && m.heap < math.MaxInt64 }

func above(n, base uint64) uint64 { return n - min(n, base) }

// maxDevices is the bound of the table when --max-devices asks for this; 0 asks for what fits.
func (m memory) maxDevices(asked int) int {
	if asked != 0 {
		return asked
	}
	return m.devices()
}

// heapLimit is what Go's heap may take beside the devices' entries, so that the collector works
// before the kernel acts; an eighth of all is left to the kernel and to files. 0: as it is.
func (m memory) heapLimit() int64 {
	if m.limit == 0 || m.heap != 0 {
		return 0
	}
	others := uint64(m.devices())*entryBytes + (baseBytes - heapBaseBytes) + m.limit/8
	if m.clustered {
		others += uint64(m.devices()) * entryBytes
	}
	return int64(max(above(m.limit, others), m.heapBase()))
}

// recovery is about how much memory a recovery of so many devices takes that share their sources.
func (m memory) recovery(devices uint64) uint64 { return m.base() + devices*deviceBytes }

// apply tells the collector its limit.
func (m memory) apply() {
	if n := m.heapLimit(); n > 0 {
		debug.SetMemoryLimit(n)
	}
}

// log reports the limit and what follows from it.
func (m memory) log(logger *slog.Logger, asked int) {
	if m.err != nil {
		logger.Warn("the memory limit of the cgroup cannot be read: the machine's memory counts",
			"error", m.err)
	}
	fit := m.devices()
	if fit == 0 {
		return
	}
	logger.Info("memory", "limit_bytes", m.limit, "from", m.origin(), "devices_fit", fit,
		"max_devices", m.maxDevices(asked), "heap_limit_bytes", debug.SetMemoryLimit(-1))
	if asked > fit {
		need := m.base() + uint64(asked)*(deviceBytes+sourceHeapBytes)
		logger.Warn("--max-devices permits more devices than fit if each has a source of its own: "+
			"the system may kill the process",
			"max_devices", asked, "devices_fit", fit,
			"needs_bytes", need/3*4, "remedy", "raise the memory limit")
	}
	if m.limit > 0 && m.limit < m.base() {
		logger.Warn("the memory limit is below what the server takes without a device",
			"limit_bytes", m.limit, "needs_bytes", m.base(), "remedy", "raise the memory limit")
	}
}

// origin names what bounds the devices.
func (m memory) origin() string {
	without := memory{limit: m.limit, clustered: m.clustered}
	if m.heapLimited() && without.devices() != m.devices() {
		return "GOMEMLIMIT"
	}
	return m.source
}

// describe is what --check prints, and where it comes from; empty: no limit is known.
func (m memory) describe() (what, origin string) {
	if m.devices() == 0 {
		return "", ""
	}
	bytes := m.limit
	if m.origin() == "GOMEMLIMIT" {
		bytes = uint64(m.heap)
	}
	return fmt.Sprintf("%d MiB, %d devices fit", bytes>>20, m.devices()), m.origin()
}

// warnRecovery says before a recovery that it needs more memory than there is: the system may kill
// the process in the middle of it, without a word.
func (m memory) warnRecovery(logger *slog.Logger, devices uint64) {
	if need := m.recovery(devices); 0 < m.limit && m.limit < need {
		logger.Error("the recovery needs more memory than the limit permits: "+
			"the system may kill the process",
			"devices", devices, "needs_bytes", need, "limit_bytes", m.limit, "from", m.source,
			"remedy", fmt.Sprintf("raise the memory limit above %d MiB", need>>20+1))
	}
}
