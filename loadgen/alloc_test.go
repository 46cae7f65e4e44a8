package loadgen

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"
)

// TestSteadyStateAllocatesNothing, neither per heartbeat nor per frame, and a stream costs 8 bytes
// a device (G7).
func TestSteadyStateAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	if size := unsafe.Sizeof(shown{}); size != 8 {
		t.Errorf("a device costs a stream %d bytes", size)
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
	w := newWorker(r, 0, socketLoop{net}, netip.AddrPort{}, "example:80")
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
