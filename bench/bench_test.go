package bench

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	sizes   = flag.String("devices", "1k,1M", "device counts, with k and M")
	scratch = flag.String("scratch", "", "directory on the disk to measure; default the system's for temporary files")
)

// roles are what this program does when a benchmark starts it again as its counterpart: the clients
// of a crowd, or a server. Each process has descriptors of its own.
var roles = map[string]func() error{}

const roleEnv = "ROLLCALL_BENCH_ROLE"

func TestMain(m *testing.M) {
	flag.Parse()
	if play := roles[os.Getenv(roleEnv)]; play != nil {
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// eachSize runs once for each of -devices.
func eachSize(b *testing.B, run func(b *testing.B, devices int)) {
	for name := range strings.SplitSeq(*sizes, ",") {
		devices, err := parseCount(name)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("devices="+name, func(b *testing.B) { run(b, devices) })
	}
}

// parseCount reads 1000, 1k or 1M.
func parseCount(s string) (int, error) {
	unit := 1
	if rest, ok := strings.CutSuffix(s, "k"); ok {
		s, unit = rest, 1_000
	} else if rest, ok := strings.CutSuffix(s, "M"); ok {
		s, unit = rest, 1_000_000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is no count", s)
	}
	return n * unit, nil
}

func TestParseCount(t *testing.T) {
	for s, want := range map[string]int{"7": 7, "1k": 1000, "10M": 10_000_000} {
		if n, err := parseCount(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "k", "-1", "1G"} {
		if _, err := parseCount(s); err == nil {
			t.Errorf("%q is taken for a count", s)
		}
	}
}

// id makes ids that look random without a list of them in memory, which would cost cache misses of
// its own.
func id(n uint64) (id uuid.UUID) {
	binary.LittleEndian.PutUint64(id[:8], (n+1)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(id[8:], (n+1)*0xd1342543de82ef95)
	return id
}

// userOf gives each user two devices.
func userOf(n uint64) uuid.UUID { return id(n / 2) }

// tempDir is a fresh directory on the disk that is measured.
func tempDir(b *testing.B) string {
	dir, err := os.MkdirTemp(*scratch, "rollcall-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// heapBytes is the live heap after a collection.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// collectionCPU is the processor time of one garbage collection with the heap as it is.
func collectionCPU() time.Duration {
	sample := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"}}
	used := func() float64 {
		metrics.Read(sample)
		return sample[0].Value.Float64() - sample[1].Value.Float64()
	}
	runtime.GC()
	before := used()
	runtime.GC()
	return time.Duration((used() - before) * 1e9)
}

// closedLoop lets some goroutines do b.N operations between them, each beginning its next when its
// last is done, and reports the rate and the slowest percent. do gets the goroutine's number and
// the operation's.
func closedLoop(b *testing.B, procs int, do func(proc, op int) error) {
	took := make([][]time.Duration, procs)
	var wg sync.WaitGroup
	b.ResetTimer()
	for proc := range procs {
		wg.Go(func() {
			n := share(b.N, procs, proc)
			took[proc] = make([]time.Duration, 0, n)
			for op := range n {
				began := time.Now()
				if err := do(proc, op); err != nil {
					b.Error(err)
					return
				}
				took[proc] = append(took[proc], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	reportP99(b, slices.Concat(took...))
}

// share is how many of n operations fall to one of several goroutines.
func share(n, procs, proc int) int { return (n + procs - 1 - proc) / procs }

func TestShare(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11} {
		sum := 0
		for proc := range 10 {
			sum += share(n, 10, proc)
		}
		if sum != n {
			t.Errorf("%d operations became %d", n, sum)
		}
	}
}

func reportP99(b *testing.B, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}
