package watch

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/record"
)

// sinkBus takes everything and keeps nothing.
type sinkBus struct{ messages int }

func (b *sinkBus) Self() string                                { return "n0" }
func (b *sinkBus) Peers() []string                             { return []string{"n1", "n2"} }
func (b *sinkBus) Send(_ string, _ bus.Subject, _ []byte) bool { b.messages++; return true }

// BenchmarkPublish is what a hub costs a commit loop: batches of 100 changes.
func BenchmarkPublish(b *testing.B) {
	for _, watched := range []int{0, 1, 100_000} {
		for _, nodes := range []int{1, 3} {
			if watched == 0 && nodes > 1 {
				continue
			}
			b.Run(fmt.Sprintf("users=%d/nodes=%d", watched, nodes), func(b *testing.B) {
				benchmarkPublish(b, watched, nodes)
			})
		}
	}
}

func benchmarkPublish(b *testing.B, watched, nodes int) {
	h, err := NewHub(HubOptions{Bus: new(sinkBus), Clock: engine.NewClock(),
		Vouch: func(uint64) error { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	h.Open(new(testOwner))
	for i := range watched {
		user := benchUser(i)
		for n := range nodes {
			h.tell(fmt.Sprintf("n%d", n), 1, userList(user[:]))
		}
	}
	var recs []record.View
	for i := range 1000 {
		recs = append(recs, record.View(someRecord(benchUser(i*97), 1, 1)))
	}
	b.ReportAllocs()
	lsn := uint64(0)
	for b.Loop() {
		r := recs[lsn%1000]
		lsn++
		h.Publish(0, r.User(), lsn, r)
		if lsn%100 == 0 {
			h.Flush(0, lsn, 0)
		}
	}
	h.Flush(0, lsn, 0)
}

func benchUser(i int) uuid.UUID { return uuid.UUID{2: byte(i >> 16), 7: byte(i >> 8), 15: byte(i)} }

// BenchmarkRewatch is a claim of one partition with very many users that a node watches: all are
// asked for, answered and compared. A user has one device.
func BenchmarkRewatch(b *testing.B) {
	const users = 100_000
	w := newWorld(b, 1, 1, 1, true)
	clock := engine.NewClock()
	f, err := engine.NewFollower(engine.Options{Clock: clock,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	f.Start()
	defer f.Close(context.Background())
	n := w.nodes[0]
	if n.edge, err = NewEdge(EdgeOptions{Bus: link{w, n.name}, Follower: Of(f), Clock: w.clock,
		Partitions: 1, Of: func(uuid.UUID) int { return 0 }}); err != nil {
		b.Fatal(err)
	}
	for i := range users {
		rec := record.View(someRecord(benchUser(i), 1, 1))
		w.parts[0].commit(change{lsn: uint64(i + 1), rec: rec}, 0)
	}
	claim := func() {
		w.claim(w.parts[0], n)
	}
	claim()
	ids := make([]uuid.UUID, users)
	for i := range ids {
		ids[i] = benchUser(i)
	}
	s := broadcast.Subscription{List: &broadcast.List{Users: ids, IDs: noIDs{}},
		Conn: newClusterConn(nil)}
	if err := n.edge.Subscribe(s); err != nil {
		b.Fatal(err)
	}
	rewatch := func() {
		n.pulse(n)
		w.run()
		n.edge.ask()
		w.run()
		if p := &n.edge.parts[0]; p.begun != users || p.doubted != 0 {
			b.Fatalf("%d users were told", p.begun)
		}
	}
	rewatch()
	for b.Loop() {
		b.StopTimer()
		claim()
		w.pass(time.Second)
		b.StartTimer()
		rewatch()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/users, "ns/user")
}

// BenchmarkManyDevices is how long a commit loop waits at most for a hub that answers a question
// about a user with very many devices.
func BenchmarkManyDevices(b *testing.B) {
	const devices = 100_000
	user, other := benchUser(1), benchUser(2)
	shared := &sharedLog{}
	shared.cond.L = &shared.mu
	for i := range uint64(devices) {
		s := record.State{Seq: 1, Online: true, TTLMS: 3_600_000, UpdatedAtMS: i + 1}
		shared.records = append(shared.records, record.AppendUser(nil, user, benchUser(int(i)), &s,
			[]byte("desktop"), &record.User{SeenAtMS: i + 1, Online: uint32(i + 1)}))
	}
	log := shared.take()
	h, err := NewHub(HubOptions{Bus: new(sinkBus), Clock: engine.NewClock(), Vouch: log.Vouch})
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(log, engine.Options{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer log.close()
	if n := e.DeviceCount(user); n != devices {
		b.Fatalf("%d devices", n)
	}
	h.Open(e)
	h.Flush(0, devices, 0)
	rec := someRecord(other, 1, 1)
	longest := int64(0)
	for b.Loop() {
		var told atomic.Bool
		go func() {
			h.answer("n1", request{users: userList(user[:])})
			told.Store(true)
		}()
		for !told.Load() {
			began := h.o.Clock.Nanos()
			h.Publish(0, other, devices, rec)
			h.Flush(0, devices, 0)
			longest = max(longest, h.o.Clock.Nanos()-began)
			time.Sleep(100 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(longest), "max-wait-ns")
}
