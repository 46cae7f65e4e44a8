package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
)

// BenchmarkHeartbeats has so many daemons send one heartbeat after the other to one of three nodes
// in this process.
func BenchmarkHeartbeats(b *testing.B) {
	for _, daemons := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(daemons), func(b *testing.B) {
			nodes := startNodes(b, 3, 6)
			allOwned(b, nodes)
			var left atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			b.ResetTimer()
			for range daemons {
				group.Go(func() {
					hb := new(engine.Heartbeat)
					hb.User, hb.Device = uuid.New(), uuid.New()
					hb.Status, hb.Source, hb.TTLMS = engine.Online, []byte("daemon"), 60_000
					for left.Add(-1) >= 0 {
						hb.Seq++
						hb.SentAtMS = uint64(time.Now().UnixMilli())
						if r := nodes[0].Heartbeat(hb); r.Outcome != engine.Accepted {
							b.Error(r)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "heartbeats/s")
		})
	}
}
