package wheel

import (
	"fmt"
	"testing"
)

// BenchmarkRefile is the lazy wheel at work: every item fires once per TTL (1,200 ticks: 12 s)
// and is filed again for another. The time is that of one item, both its cascades included.
func BenchmarkRefile(b *testing.B) {
	for _, devices := range []int{1_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			const ttl = 1200
			w := New(0)
			for n := range devices {
				w.Add(uint32(n), 1+uint64(n)*ttl/uint64(devices))
			}
			done := 0
			refile := func(items []Item) {
				done += len(items)
				for _, item := range items {
					w.Add(item.Ref, w.Now()+1+ttl)
				}
			}
			for w.Now() < 2*ttl {
				w.Advance(w.Now()+1, 1<<30, refile)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for done = 0; done < b.N; {
				w.Advance(w.Now()+1, 1<<30, refile)
			}
			b.ReportMetric(float64(w.pool.inUse+w.pool.frees)*blockBytes/float64(devices),
				"B/device")
		})
	}
}
