package loadgen

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"
)

// TestSteadyStateAllocatesNothing, neither per heartbeat nor per frame nor per event of a list. A
// stream costs 8 bytes a device, a list with view=users 24 a user (G7).
func TestSteadyStateAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	if size := unsafe.Sizeof(shown{}); size != 8 {
		t.Errorf("a device costs a stream %d bytes", size)
	}
	if size := unsafe.Sizeof(told{}); size != 24 {
		t.Errorf("a user costs a list %d bytes", size)
	}
	w, net := busyWorker()
	if n := testing.AllocsPerRun(1000, func() { sendOne(w, net) }); n > 0 {
		t.Errorf("a heartbeat allocates %v times", n)
	}
	if n := w.meter.second.n[accepted]; net.written == 0 || n < 1000 {
		t.Errorf("%d bytes written, %d heartbeats accepted", net.written, n)
	}
	w, s := benchWatch()
	d := &w.crowd.devices[0]
	frame := chunkOf([]byte(frameText(w, d.id, 1)))
	d.sent = 1
	buf := make([]byte, len(frame))
	n := testing.AllocsPerRun(1000, func() {
		s.shown[0].number = 0
		s.receive(buf[:copy(buf, frame)])
	})
	if n > 0 {
		t.Errorf("a frame allocates %v times", n)
	}
	if w.oracle.checked.Frames < 1000 || !w.oracle.clean() {
		t.Errorf("%d frames, %v", w.oracle.checked.Frames, w.oracle.examples)
	}
}

// TestListEventsAllocateNothing, in both views (G7).
func TestListEventsAllocateNothing(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	for _, byUsers := range []bool{false, true} {
		l := benchList(byUsers)
		text := eventText(l, 1)
		buf := make([]byte, len(text))
		n := testing.AllocsPerRun(1000, func() {
			for i := range l.shown {
				l.shown[i].number = 0
			}
			for i := range l.told {
				l.told[i].changed--
			}
			l.receive(buf[:copy(buf, text)])
		})
		if n > 0 {
			t.Errorf("view=users is %t: an event allocates %v times", byUsers, n)
		}
		if o := l.streams.oracle; o.checked.Events < 1000 || !o.clean() {
			t.Errorf("%d events, %v", o.checked.Events, o.examples)
		}
	}
}

// benchList is a list of 100 users that is synced.
func benchList(byUsers bool) *list {
	o := &Options{DevicesPerUser: 1, Rate: 1, TTL: time.Hour, Grace: time.Second,
		MaxWait: time.Hour}
	r := &runner{o: o, orders: &orders{epoch: time.Now(), seqBase: 1739030400000000},
		plan: []phase{{end: never}}}
	w := newWorker(r, 0, nil, []target{{}})
	var users []uint32
	for i := range uint32(100) {
		w.crowd.add(o, w.rng, 1)
		users = append(users, i)
	}
	l := w.streams.newList(users, byUsers, false)
	l.state, l.synced = watchLive, true
	return l
}

// eventText is a chunk with an event of heartbeat n of each user's device.
func eventText(l *list, n uint32) []byte {
	var text []byte
	for i := range l.users {
		c := l.streams.crowd
		d, u := &c.devices[i], &c.users[i]
		d.sent = max(d.sent, n)
		text = append(text, "id: cursor-of-some-length-as-they-are-usually-\nevent: "...)
		if l.byUsers {
			text = fmt.Appendf(text, `user`+"\n"+`data: {"schema_version":1,"user_id":"%s",`+
				`"status":"online","devices_online":1,"last_seen_ms":1739030400000,`+
				`"changed_at_ms":1739030400000}`+"\n\n", u.text)
			continue
		}
		text = fmt.Appendf(text, "presence\n%s%s\",\"status\":\"online\",\"source\":\"loadgen\","+
			"\"sent_at_ms\":1739030400000,\"seq\":%d%s\n\n", framePrefix(u.text), d.id,
			l.streams.run.seq(n), l.streams.suffix)
	}
	return chunkOf(text)
}

// BenchmarkListRead is the cost of an event of a list once its bytes are read.
func BenchmarkListRead(b *testing.B) {
	for _, byUsers := range []bool{false, true} {
		b.Run(fmt.Sprintf("users=%t", byUsers), func(b *testing.B) {
			l := benchList(byUsers)
			text := eventText(l, 1)
			buf := make([]byte, len(text))
			b.ReportAllocs()
			for b.Loop() {
				for i := range l.shown {
					l.shown[i].number = 0
				}
				for i := range l.told {
					l.told[i].changed--
				}
				l.receive(buf[:copy(buf, text)])
			}
			events := float64(l.streams.oracle.checked.Events)
			b.ReportMetric(events/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// memorySockets is one connection to a server that answers 204 to everything.
type memorySockets struct{ written int }

func (n *memorySockets) open(socketID, netip.AddrPort, netip.Addr, int) (socket, error) {
	return n, nil
}

func (n *memorySockets) wait(_ time.Duration, ready []readiness) ([]readiness, error) {
	return append(ready, readiness{in: true}), nil
}

func (n *memorySockets) connected() error       { return nil }
func (n *memorySockets) watch(bool, bool) error { return nil }
func (n *memorySockets) write(p []byte) (int, error) {
	n.written += len(p)
	return len(p), nil
}
func (n *memorySockets) read(p []byte) (int, error) {
	return copy(p, "HTTP/1.1 204 No Content\r\n\r\n"), nil
}
func (n *memorySockets) close(bool) {}

// socketLoop is memorySockets as what waits for its one connection.
type socketLoop struct{ *memorySockets }

func (socketLoop) close() {}

// busyWorker is a worker in the middle of its load, with one connection and one device.
func busyWorker() (*worker, *memorySockets) {
	o := &Options{DevicesPerUser: 1, Rate: 1, TTL: time.Hour, Pipeline: 1, Batch: 1}
	r := &runner{o: o, orders: &orders{epoch: time.Now(), seqBase: 1739030400000000,
		sentMS: 1739030400000}, plan: []phase{{end: never}}}
	net := &memorySockets{}
	w := newWorker(r, 0, socketLoop{net}, []target{{host: "example:80"}})
	w.crowd.add(o, w.rng, 1)
	w.enter(loading)
	w.sender.add(&link{})
	w.sender.open()
	w.reactor.serve(readiness{out: true})
	return w, net
}

// sendOne sends a heartbeat and takes its answer.
func sendOne(w *worker, net *memorySockets) {
	w.ledger.queue.push(beat{due: w.now})
	w.sender.dispatch()
	w.sender.flush()
	ready, _ := w.reactor.wait(0)
	w.reactor.serve(ready[0])
}
