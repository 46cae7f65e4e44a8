package engine

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/wire"
)

// TestLinearizable records concurrent heartbeats, expiries and snapshots of a few devices, on the
// running engine with its real clock and loops, and checks the history of each device against the
// sequential model below (Herlihy and Wing 1990, https://doi.org/10.1145/78969.78972; the checker
// is anishathalye/porcupine), in which a session ends once (I4). It also holds the frames of a
// stream to the same order (I1).
func TestLinearizable(t *testing.T) {
	rng := testseed.Rand(t)
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		linearizableRound(t, rng.Uint64())
	}
}

// opKind is what an operation of a history did.
type opKind uint8

const (
	opHeartbeat opKind = iota
	opExpire           // seen as a frame
	opSnapshot
)

type opInput struct {
	device int
	kind   opKind
	seq    uint64
	status Status
}

type opOutput struct {
	outcome Outcome
	last    uint64 // a stale heartbeat's last_seq, or the snapshot's seq
	status  Status // snapshot
	known   bool   // snapshot
}

// deviceModel is one device as a sequential machine.
type deviceModel struct {
	known  bool
	seq    uint64
	status Status
}

func (m deviceModel) step(in opInput, out opOutput) (bool, deviceModel) {
	switch in.kind {
	case opHeartbeat:
		if m.known && in.seq <= m.seq {
			return out.outcome == Stale && out.last == m.seq, m
		}
		return out.outcome == Accepted, deviceModel{true, in.seq, in.status}
	case opExpire:
		return m.known && m.status == Online && m.seq == in.seq, deviceModel{true, m.seq, Offline}
	default:
		if !out.known {
			return !m.known, m
		}
		return m.known && out.last == m.seq && out.status == m.status, m
	}
}

var presenceModel = porcupine.Model{
	Init: func() any { return deviceModel{} },
	Step: func(state, in, out any) (bool, any) {
		ok, next := state.(deviceModel).step(in.(opInput), out.(opOutput))
		return ok, next
	},
}

// history collects the operations of one round.
type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
	// called is when the accepted heartbeat of a device and seq was called: its expiry cannot come
	// before the ttl after it.
	called map[opInput]int64
	ttl    map[opInput]uint64
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(client int, in opInput, call int64, out opOutput, ret int64) {
	h.mu.Lock()
	h.ops = append(h.ops,
		porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
	h.mu.Unlock()
}

func linearizableRound(t *testing.T, seed uint64) {
	const devices, clients, opsPerClient = 3, 6, 60
	log := newMemLog()
	e, err := New(log, Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { log.close(); e.Close(context.Background()) }()

	user := uuid.New()
	ids := make([]uuid.UUID, devices)
	index := map[uuid.UUID]int{}
	for i := range ids {
		ids[i] = uuid.New()
		index[ids[i]] = i
	}
	conn := follow(t, e, user)
	h := &history{began: time.Now(), called: map[opInput]int64{}, ttl: map[opInput]uint64{}}
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() { h.client(e, c, user, ids, rng, opsPerClient) })
	}
	wg.Wait()
	frames := settledFrames(t, e, log, conn, user, ids)
	h.addExpiries(frames, index)
	for i := range ids {
		checkDevice(t, h, i)
	}
	checkFrameOrder(t, frames, acceptedCount(h))
}

// client sends heartbeats of random seqs around a growing one, alone, in batches and as an event
// loop, and takes snapshots.
func (h *history) client(
	e *Engine, id int, user uuid.UUID, devices []uuid.UUID, rng *rand.Rand, ops int,
) {
	for i := range ops {
		d := rng.IntN(len(devices))
		if rng.IntN(4) == 0 {
			h.snapshot(e, id, user, devices[d], d)
			continue
		}
		if rng.IntN(6) == 0 {
			h.batch(e, id, user, devices, rng, uint64(i*2))
			continue
		}
		hb := &Heartbeat{Heartbeat: wire.Heartbeat{
			User: user, Device: devices[d], Source: []byte("x"), Status: Online,
			TTLMS: 60_000, Seq: uint64(i*2 + rng.IntN(8)),
		}}
		switch rng.IntN(3) {
		case 0:
			hb.TTLMS = uint64(1 + rng.IntN(3))
		case 1:
			hb.Status = Offline
		}
		in := opInput{device: d, kind: opHeartbeat, seq: hb.Seq, status: hb.Status}
		call := h.now()
		res := e.Heartbeat(hb)
		h.add(id, in, call, opOutput{outcome: res.Outcome, last: res.LastSeq}, h.now())
		if res.Outcome == Accepted {
			h.accepted(in, call, hb.TTLMS)
		}
		if rng.IntN(8) == 0 {
			// gives expiries room among the heartbeats
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		}
	}
}

// accepted notes when an accepted heartbeat was called.
func (h *history) accepted(in opInput, call int64, ttlMS uint64) {
	key := opInput{device: in.device, seq: in.seq}
	h.mu.Lock()
	h.called[key], h.ttl[key] = call, ttlMS
	h.mu.Unlock()
}

func (h *history) snapshot(e *Engine, client int, user, device uuid.UUID, d int) {
	call := h.now()
	records, err := allDevices(e, user)
	if err != nil {
		panic(err)
	}
	out := opOutput{}
	for _, r := range records {
		if r.Device == device {
			out = opOutput{known: true, last: r.Seq, status: r.Status}
		}
	}
	h.add(client, opInput{device: d, kind: opSnapshot}, call, out, h.now())
}

// settledFrames waits until no device can expire any more and every event has arrived.
func settledFrames(
	t *testing.T, e *Engine, log *memLog, conn *testConn, user uuid.UUID, devices []uuid.UUID,
) []frame {
	t.Helper()
	const lastSeq = 1 << 40
	for _, d := range devices { // an offline heartbeat above every seq ends each session
		if res := e.Heartbeat(&Heartbeat{Heartbeat: wire.Heartbeat{
			User: user, Device: d, Source: []byte("x"), Seq: lastSeq, TTLMS: 1,
		}}); res.Outcome != Accepted {
			t.Fatalf("last heartbeat: %+v", res)
		}
	}
	log.mu.Lock()
	n := len(log.records)
	log.mu.Unlock()
	frames := conn.waitFrames(t, n)
	if len(frames) != n {
		t.Fatalf("%d records, %d frames", n, len(frames))
	}
	// Not simply the last ones: a device may have expired between the last heartbeats of two
	// others.
	return slices.DeleteFunc(slices.Clone(frames), func(f frame) bool { return f.seq == lastSeq })
}

// addExpiries turns the frames that no heartbeat explains, an offline with the seq of the frame
// before it, into operations.
func (h *history) addExpiries(frames []frame, index map[uuid.UUID]int) {
	last := map[uuid.UUID]frame{}
	for _, f := range frames {
		if prev, ok := last[f.device]; ok && prev.seq == f.seq {
			d := index[f.device]
			key := opInput{device: d, seq: f.seq}
			call := h.called[key] + int64(h.ttl[key])*int64(time.Millisecond) // never early
			h.add(1000, opInput{device: d, kind: opExpire, seq: f.seq}, call, opOutput{},
				int64(f.at.Sub(h.began)))
		}
		last[f.device] = f
	}
}

func checkDevice(t *testing.T, h *history, device int) {
	t.Helper()
	var ops []porcupine.Operation
	expiries := 0
	for _, op := range h.ops {
		if op.Input.(opInput).device == device {
			ops = append(ops, op)
			if op.Input.(opInput).kind == opExpire {
				expiries++
			}
			if op.Return < op.Call {
				t.Fatalf("device %d: seq %d went offline %v before its ttl was over", device,
					op.Input.(opInput).seq, time.Duration(op.Call-op.Return))
			}
		}
	}
	res := porcupine.CheckOperationsTimeout(presenceModel, ops, time.Minute)
	if res != porcupine.Ok {
		t.Fatalf("device %d: %d operations (%d expiries) are not linearizable: %v", device,
			len(ops), expiries, res)
	}
}

func acceptedCount(h *history) int {
	n := 0
	for _, op := range h.ops {
		if op.Input.(opInput).kind == opExpire ||
			op.Input.(opInput).kind == opHeartbeat && op.Output.(opOutput).outcome == Accepted {
			n++
		}
	}
	return n
}

// checkFrameOrder: a stream that keeps up gets every event once, and no device steps back.
func checkFrameOrder(t *testing.T, frames []frame, want int) {
	t.Helper()
	if len(frames) != want {
		t.Errorf("%d frames for %d changes", len(frames), want)
	}
	last := map[uuid.UUID]frame{}
	for _, f := range frames {
		prev, ok := last[f.device]
		expiry := f.seq == prev.seq && prev.status == Online && f.status == Offline
		if ok && f.seq <= prev.seq && !expiry {
			t.Fatalf("device %v: seq %d status %d after seq %d status %d", f.device, f.seq,
				f.status, prev.seq, prev.status)
		}
		last[f.device] = f
	}
}
