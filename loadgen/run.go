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

// ErrConnections is returned by Run when the connections were not all made within Options.Timeout.
var ErrConnections = errors.New("loadgen: the server does not take all connections: " +
	"ask for fewer, or raise its limits")

// Run drives the target as the options say and reports what it saw. The error says why there is no
// report: bad options, no server, an answer that makes a run pointless. What the run found wrong is
// in the report (Report.Verdict). When ctx ends, the load ends early and the run is still judged.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	sc := findScenario(o.Scenario)
	r := &runner{o: &o, scenario: sc, plan: sc.plan(&o), began: time.Now()}
	began := r.began.UnixMilli()
	r.orders = &orders{epoch: r.began, seconds: make(chan handover, 64*o.Workers),
		seqBase: began * 1000, sentMS: began}
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

// populate makes users, devices and the workers that own them. User i belongs to worker i mod
// Workers.
func (r *runner) populate() error {
	o := r.o
	targets, err := o.targets()
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
		net, err := o.openSockets()
		if err != nil {
			return err
		}
		w := newWorker(r, i, net, targets)
		r.workers = append(r.workers, w)
		own := make([]float64, 0, o.Users/o.Workers+1)
		for u := i; u < o.Users; u += o.Workers {
			rate := o.Rate * weights[u] / sum / float64(o.DevicesPerUser) * r.peak()
			w.crowd.add(o, rng, rate)
			w.follow(streams[u])
			own = append(own, weights[u])
			w.arrivals.pick.share += weights[u] / sum
		}
		w.shuffle(own)
		w.makeLists(o.ListPopulation/o.Workers, i)
		for c := i; c < o.Connections; c += o.Workers {
			w.sender.add(&link{node: len(w.sender.links) % len(targets), source: o.source(c)})
		}
	}
	return nil
}

func (o *Options) openSockets() (sockets, error) {
	if o.portable {
		return newPortableSockets(), nil
	}
	return newSockets()
}

// peak is the highest factor of any phase.
func (r *runner) peak() float64 {
	most := 1.0
	for _, p := range r.plan {
		most = max(most, p.factor)
	}
	return most
}

// follow makes the streams that follow the last user.
func (w *worker) follow(streams int) {
	for range streams {
		s := w.streams.follow(uint32(len(w.crowd.users) - 1))
		s.node = len(w.streams.all) % len(w.reactor.targets)
		s.source = w.o.source(len(w.streams.watches)*w.o.Workers + w.index)
		s.slow = w.o.SlowShare > 0 && w.rng.Float64() < w.o.SlowShare
		w.streams.watches = append(w.streams.watches, s)
		w.streams.all = append(w.streams.all, &s.stream)
	}
}

// shuffle fixes the order of heartbeats.
func (w *worker) shuffle(weights []float64) {
	if w.o.Skew > 0 {
		w.arrivals.pick.users = newAlias(weights)
		return
	}
	w.arrivals.pick.round = newRound(uint32(len(w.crowd.devices)), w.rng)
}

// drive runs the workers to their end.
func (r *runner) drive(ctx context.Context) (*Report, error) {
	var done sync.WaitGroup
	for _, w := range r.workers {
		done.Go(func() {
			runtime.LockOSThread() // its own thread: the kernel's timer slack below is per thread
			defer runtime.UnlockOSThread()
			fineTimers()
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

// watch starts the schedule when every worker has its connections, follows the tallies, and ends
// the load when the plan or ctx is over, or the scenario has seen enough.
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
				r.plan[i].moveTo(start)
			}
			r.orders.stopAt.Store(r.plan[len(r.plan)-1].start)
			r.orders.startAt.Store(start)
			r.cpu.start()
		} else if now > int64(r.o.Timeout) {
			r.orders.fail(ErrConnections)
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
