package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"rollcall/engine"
	"rollcall/wal"
)

// expiryLog is a log that notes when each expiry was durable.
type expiryLog struct {
	*wal.Log
	at   []time.Time // by device; written by the commit loop
	left chan int    // how many expiries came with a batch
}

// In a record: see docs/wal-format.md.
const (
	recordFlags   = 1
	recordDevice  = 20
	recordExpired = 1 << 1
)

func (l *expiryLog) Start(
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration),
) error {
	return l.Log.Start(func(first, last uint64, records iter.Seq[[]byte], stamp int64,
		took time.Duration) {
		now, n := time.Now(), 0
		for r := range records {
			if r[recordFlags]&recordExpired != 0 {
				l.at[binary.LittleEndian.Uint64(r[recordDevice+8:])] = now
				n++
			}
		}
		if n > 0 {
			l.left <- n
		}
		committed(first, last, records, stamp, took)
	})
}

// BenchmarkLateness is how late silence is noticed, and durable, when a tenth of the devices fall
// silent so that their TTLs end within one second, evenly spread. An operation is all of that; run
// it with -benchtime 1x.
func BenchmarkLateness(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		expiring := size / 10
		b.Run(fmt.Sprintf("expiring=%d", expiring), func(b *testing.B) {
			for b.Loop() {
				late := lateness(b, size, expiring)
				slices.Sort(late)
				b.ReportMetric(float64(late[0].Microseconds())/1000, "earliest-ms")
				b.ReportMetric(float64(late[len(late)/2].Microseconds())/1000, "median-ms")
				b.ReportMetric(float64(late[len(late)*99/100].Microseconds())/1000, "p99-ms")
				b.ReportMetric(float64(late[len(late)-1].Microseconds())/1000, "worst-ms")
			}
		})
	})
}

func lateness(b *testing.B, size, expiring int) []time.Duration {
	log, err := wal.Open(tempDir(b), wal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	l := &expiryLog{Log: log, at: make([]time.Time, expiring), left: make(chan int, expiring)}
	e := startEngine(b, l, engine.Options{RecoveryGrace: time.Millisecond})
	defer e.Close(context.Background())
	fillBatches(b, e, size, 2)
	due := lastBeats(b, e, expiring)
	for left := expiring; left > 0; {
		select {
		case n := <-l.left:
			left -= n
		case <-time.After(time.Minute):
			b.Fatalf("%d devices did not expire", left)
		}
	}
	late := make([]time.Duration, expiring)
	for i := range late {
		late[i] = l.at[i].Sub(due[i])
	}
	return late
}

// lastBeats sends the last heartbeat of some devices and returns when each is due to expire: from
// two seconds after the first was sent on, over a second. A device's id ends with its number.
func lastBeats(b *testing.B, e *engine.Engine, devices int) []time.Time {
	due := make([]time.Time, devices)
	s, pending := new(sender), e.NewBatch()
	defer pending.Release()
	began := time.Now()
	for n := 0; n < devices; {
		group := min(devices-n, engine.GroupSize)
		now := time.Now()
		for i := range group {
			report(&s.hbs[i], uint64(n+i), 2, userOf(uint64(n+i)))
			binary.LittleEndian.PutUint64(s.hbs[i].Device[8:], uint64(n+i))
			at := began.Add(2*time.Second + time.Duration(n+i)*time.Second/time.Duration(devices))
			ttl := at.Sub(now).Milliseconds()
			s.hbs[i].TTLMS = uint64(max(ttl, 1))
			// receipt is a little later: lateness includes that
			due[n+i] = now.Add(time.Duration(s.hbs[i].TTLMS) * time.Millisecond)
		}
		pending.Add(s.hbs[:group])
		n += group
	}
	if err := settle(pending); err != nil {
		b.Fatal(err)
	}
	return due
}
