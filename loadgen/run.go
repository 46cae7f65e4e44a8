package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

// never is an instant that does not come.
const never = math.MaxInt64

// Run drives the target as the options say and reports what it saw. The error tells why there is no report: bad options, no
// server, an answer that makes a run pointless. What the run found wrong is in the report (Report.Verdict). When ctx ends,
// the load ends early and the run is still judged.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.resolve()
	if err != nil {
		return nil, err
	}
	sc, err := findScenario(&o.Scenario)
	if err != nil {
		return nil, err
	}
	r := &runner{o: &o, scenario: sc, plan: sc.plan(&o), began: time.Now()}
	r.orders = &orders{epoch: r.began, seconds: make(chan handover, 64*o.Workers),
		seqBase: r.began.UnixMilli() * 1000, sentMS: r.began.UnixMilli()}
	r.orders.stopAt.Store(never)
	if err := o.checkDescriptors(); err != nil {
		return nil, err
	}
	if err := r.populate(); err != nil {
		return nil, err
	}
	return r.drive(ctx)
}

// runner is one run: it starts the workers, watches their tallies and decides when the load ends.
type runner struct {
	o        *Options
	scenario *scenario
	plan     []phase
	began    time.Time
	orders   *orders
	workers  []*worker
	series   series
	restart  restartResult
	early    string // why the load ended before its time
	cpu      cpuMeter
	teller   teller
}

type restartResult struct {
	done chan error
	once sync.Once
}

// populate makes users, devices and the workers that own them. User i belongs to worker i mod Workers.
func (r *runner) populate() error {
	o := r.o
	addr, host, err := o.target()
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	weights := zipfWeights(o.Users, o.Skew)
	streams := allot(int(math.Round(float64(o.Users)*o.StreamsPerUser)), weights)
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	for i := range o.Workers {
		w := &worker{index: i, o: o, run: r.orders, addr: addr, host: host, plot: r.scenario,
			request: newTemplate(host, heartbeatPath, o.IngestToken, o.TTL), batch: newBatchTemplate(host, batchPath, o.IngestToken, o.TTL),
			suffix: frameSuffix(o.TTL.Milliseconds()), nextDue: never,
			rng: rand.New(rand.NewPCG(o.Seed, uint64(i+1))), waiting: map[uint32][]int64{}, retrying: map[uint32]int64{},
			phases: append([]phase(nil), r.plan...), tallies: make([]tally, len(r.plan)), input: make([]byte, 256<<10)}
		w.oracle.rules = o
		if o.portable {
			w.net = newPortableSockets()
		} else if w.net, err = newSockets(); err != nil {
			return err
		}
		r.workers = append(r.workers, w)
		own := make([]float64, 0, o.Users/o.Workers+1)
		for u := i; u < o.Users; u += o.Workers {
			rate := o.Rate * weights[u] / sum / float64(o.DevicesPerUser) * r.peak()
			w.addUser(rng, rate, streams[u])
			own = append(own, weights[u])
			w.pick.part += weights[u] / sum
		}
		w.shuffle(own)
		for c := i; c < o.Connections; c += o.Workers {
			w.links = append(w.links, &link{w: w, source: o.source(c)})
		}
		w.opening = len(w.links)
	}
	return nil
}

// peak is the highest factor of any phase.
func (r *runner) peak() float64 {
	most := 1.0
	for _, p := range r.plan {
		most = max(most, p.factor)
	}
	return most
}

// addUser makes a user with its devices; rate is the heartbeats per second of each.
func (w *worker) addUser(rng *rand.Rand, rate float64, streams int) {
	o := w.o
	// Frames may come this many heartbeats of their device after their own and are still measured.
	const memory = 10 // seconds
	size := uint32(2)
	for float64(size) < rate*memory && size < 1<<14 && size < uint32(1<<20/o.DevicesPerUser) {
		size *= 2
	}
	u := user{id: newUUID(rng), first: uint32(len(w.devices)), count: uint32(o.DevicesPerUser)}
	u.text = u.id.String()
	if o.StreamsPerUser == 0 && o.NoVerify {
		// Nobody will ask for a moment: one for all saves a cache miss per heartbeat.
		w.moments, size = w.moments[:0], 1
	}
	for i := range u.count {
		d := device{id: newUUID(rng), userID: u.id, user: uint32(len(w.users)), ring: uint32(len(w.moments)), mask: size - 1, silent: never}
		d.id[12], d.id[13], d.id[14], d.id[15] = byte(i>>24), byte(i>>16), byte(i>>8), byte(i)
		w.devices = append(w.devices, d)
		for range size {
			w.moments = append(w.moments, moment{never, never})
		}
	}
	w.users = append(w.users, u)
	for range streams {
		s := newWatch(w, uint32(len(w.users)-1))
		s.source = o.source(len(w.watches)*o.Workers + w.index)
		s.slow = o.SlowShare > 0 && w.rng.Float64() < o.SlowShare
		w.watches = append(w.watches, s)
	}
}

// shuffle fixes the order of heartbeats.
func (w *worker) shuffle(weights []float64) {
	if w.o.Skew > 0 {
		w.pick.users = newAlias(weights)
		return
	}
	w.pick.round = newRound(uint32(len(w.devices)), w.rng)
}

// drive runs the workers to their end.
func (r *runner) drive(ctx context.Context) (*Report, error) {
	var done sync.WaitGroup
	for _, w := range r.workers {
		done.Go(func() {
			runtime.LockOSThread() // its own thread: the kernel's timer slack below is per thread
			defer runtime.UnlockOSThread()
			fineTimers()
			for _, l := range w.links {
				l.open()
			}
			w.loop()
		})
	}
	finished := make(chan struct{})
	go func() {
		done.Wait()
		close(finished)
	}()
	r.watch(ctx, finished)
	if err := r.orders.failure.Load(); err != nil {
		return nil, *err
	}
	return r.report(), nil
}

// watch starts the schedule when every worker has its connections, follows the tallies, and ends the load when the plan is
// over, ctx is, or the scenario has seen enough.
func (r *runner) watch(ctx context.Context, finished <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	progress := time.NewTicker(time.Second)
	defer progress.Stop()
	cancelled := ctx.Done()
	for {
		select {
		case h := <-r.orders.seconds:
			r.series.add(h, r.orders.startAt.Load())
		case <-tick.C:
			r.steer()
		case <-progress.C:
			r.tell()
		case <-cancelled:
			cancelled = nil
			if r.orders.startAt.Load() == 0 {
				r.orders.fail(fmt.Errorf("loadgen: %w", context.Cause(ctx)))
				continue
			}
			r.end("interrupted")
		case <-finished:
			for len(r.orders.seconds) > 0 {
				r.series.add(<-r.orders.seconds, r.orders.startAt.Load())
			}
			r.cpu.stop()
			return
		}
	}
}

// steer does what the time demands.
func (r *runner) steer() {
	start := r.orders.startAt.Load()
	now := r.orders.clock()
	if start == 0 {
		if int(r.orders.connect.Load()) == len(r.workers) {
			start = now + int64(20*time.Millisecond)
			for i := range r.plan {
				r.plan[i].start += start
				if r.plan[i].end != never {
					r.plan[i].end += start
				}
			}
			r.orders.stopAt.Store(r.plan[len(r.plan)-1].start)
			r.orders.startAt.Store(start)
			r.cpu.start()
		} else if now > int64(r.o.Timeout) {
			r.orders.fail(errors.New("loadgen: the server does not take all connections; fewer --connections, or raise its limits"))
		}
		return
	}
	r.restartWhenDue(start, now)
	r.endPastKnee(now)
}

// end ends the load now.
func (r *runner) end(why string) {
	now := r.orders.clock()
	if now < r.orders.stopAt.Load() {
		r.early = why
		r.orders.stopAt.Store(now)
	}
}

// restartWhenDue runs the restart command in the background, once.
func (r *runner) restartWhenDue(start, now int64) {
	at := start + int64(r.o.Warmup) + int64(r.scenario.eventAt*float64(r.o.Duration))
	if r.scenario.event != restartEvent || now < at || r.o.Restart == nil {
		return
	}
	r.restart.once.Do(func() {
		r.restart.done = make(chan error, 1)
		go func() { r.restart.done <- r.o.Restart() }()
	})
}
