package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"rollcall/cluster/bus"
	"rollcall/cluster/partition"
	"rollcall/cluster/watch"
	"rollcall/engine"
	"rollcall/jslog"
	"rollcall/record"
)

const (
	// lookEvery is how often a node looks which logs it leads.
	lookEvery = 25 * time.Millisecond
	// calmEvery is the same while no lead is about to move: a look costs about as much for each
	// log, whatever comes of it.
	calmEvery = 100 * time.Millisecond
	// claimAgain is how long it waits after a claim that did not succeed.
	claimAgain = 100 * time.Millisecond
	// claimAfterLoss is the same after a log was lost.
	claimAfterLoss = time.Second
	// claimUnusable is how long it waits after a log that it cannot use.
	claimUnusable = 10 * time.Second
	// ackTimeout is how long an append may be without an answer.
	ackTimeout = 3 * time.Second
)

// streamOf is the name of a partition's log.
func streamOf(p int) string { return fmt.Sprintf("P%04d", p) }

// holdingsConfig is what partitions need.
type holdingsConfig struct {
	node    string
	count   int
	secret  []byte // key of the hashes, the same on each node
	conn    *nats.Conn
	bus     bus.Bus
	clock   engine.Clock
	engine  engine.Options // Store and Events are set here
	leads   func(stream string) bool
	check   func(ctx context.Context, stream string) error // that it keeps what it acknowledges
	may     func() bool                                    // claim now
	must    func() bool                                    // resign from everything now
	changed func()                                         // what is owned has changed
	newest  func(p int) uint64                             // epoch of a partition's newest owner
	calm    func() bool                                    // no lead is about to move
	// abdicate has this node lead a log no more, without asking others.
	abdicate func(stream string)
	observe  func(records int, took time.Duration)
	figures  *claimFigures
	logger   *slog.Logger
}

// holdings are all partitions, of which this node owns those whose logs it leads.
//
//	idle ──► this node leads the log ──► claiming: claim, replay ──► serving ──► resigning ──► idle
//
// A claim fences every earlier owner (C1). Serving ends when the log fails, when another node leads
// it, or by release: then the log is closed first, so that everything that waits is refused, then
// nothing can take hold of the engine any more, and the engine is dropped whole (C3).
//
// One goroutine, run, looks at all of them, and a partition that is claimed or served has one.
type holdings struct {
	holdingsConfig
	parts []part

	rouser // of run
	stop   chan struct{}
	loop   sync.WaitGroup

	figuresMu sync.Mutex
	gone      engine.Stats // of engines that are gone. guarded by figuresMu
}

// part is one partition as this node has it.
type part struct {
	number int
	stream string // of the log
	unhold func() // mu.RUnlock, once made

	// mu is held for reading while the engine is used, and for writing when it comes or goes.
	mu    sync.RWMutex
	owned *owned // nil: it is not this node's. guarded by mu

	counted *owned // owned, until its counters are with those that are gone. guarded by figuresMu

	busy   atomic.Bool        // a goroutine is at it
	resign context.CancelFunc // ends its claim, or has it resign. Single owner: run
	next   time.Time          // no claim before. Stored before busy is false, loaded after
	last   atomic.Pointer[ClaimStatus]

	// passing has no claim be begun, and one that is being made end: another node is to lead the
	// log. See pass.
	passing atomic.Bool
	// unusable is not 0 while this node says that it cannot use its copy of the log: the epoch of
	// its last claim, which found that out, or untilRestart. See usable.
	unusable atomic.Uint64
}

// untilRestart is part.unusable where a newer version is needed.
const untilRestart = math.MaxUint64

// owned is a partition of this node, from its claim until it resigns. Its fields do not change.
type owned struct {
	partition int
	log       *jslog.Log
	engine    *engine.Engine
	hub       *watch.Hub
}

// sure reports whether this node may answer from the engine's table (C5): no append waits so long
// for its acknowledgement that another owner may have been acknowledged meanwhile. An owner that
// has nothing in flight shows that it is one when it is asked, see Log.Vouch.
func (o *owned) sure() bool {
	return o.log.Err() == nil && o.log.Committing() < ackTimeout
}

func newHoldings(c holdingsConfig) *holdings {
	s := &holdings{
		holdingsConfig: c, parts: make([]part, c.count),
		rouser: newRouser(), stop: make(chan struct{}),
	}
	for i := range s.parts {
		s.parts[i].number, s.parts[i].stream = i, streamOf(i)
		s.parts[i].unhold = s.parts[i].mu.RUnlock
	}
	return s
}

// start begins to look for partitions to own.
func (s *holdings) start() { s.loop.Go(s.run) }

// close resigns from everything, and returns when it is done.
func (s *holdings) close() {
	close(s.stop)
	s.loop.Wait()
}

// Of implements partitions.
func (s *holdings) Of(user uuid.UUID) int { return partition.Of(user, s.count) }

// Mine returns the engine of a partition that this node owns and is sure of. It serves until
// release is called.
func (s *holdings) Mine(p int) (e *engine.Engine, release func(), ok bool) {
	o, release := s.hold(p)
	if o == nil {
		return nil, nil, false
	}
	if !o.sure() {
		release()
		return nil, nil, false
	}
	return o.engine, release, true
}

// hold keeps a partition of this node from being resigned until release is called; nil: it is not
// this node's, or is being resigned. It never waits: a question that takes seconds would hold up
// the resigner, and behind it all that ask whose the partition is, pulses and deltas among them.
func (s *holdings) hold(p int) (o *owned, release func()) {
	if p < 0 || p >= len(s.parts) { // a node asks what it likes
		return nil, nil
	}
	pt := &s.parts[p]
	if !pt.mu.TryRLock() {
		return nil, nil
	}
	if o = pt.owned; o == nil {
		pt.mu.RUnlock()
		return nil, nil
	}
	return o, pt.unhold
}

// all are the partitions that are this node's now. They may be resigned any time: what is asked of
// their logs and hubs has an answer all the same.
func (s *holdings) all() []*owned {
	var all []*owned
	for p := range s.parts {
		if o, release := s.hold(p); o != nil {
			all = append(all, o)
			release()
		}
	}
	return all
}

// receive takes what edges ask of hubs.
func (s *holdings) receive(m bus.Message) {
	p, ours := watch.Ours(m.Data)
	if !ours || p >= len(s.parts) {
		return
	}
	if o, release := s.hold(p); o != nil {
		defer release()
		if err := o.hub.Receive(m.From, m.Data); err != nil {
			s.logger.Debug("a question of an edge", "partition", p, "from", m.From, "error", err)
		}
	}
}

// run looks which logs this node leads.
func (s *holdings) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for i := range s.parts {
			s.look(&s.parts[i])
		}
		every := lookEvery
		if s.calm() {
			every = calmEvery
		}
		timer.Reset(s.clock.Until(every))
		select {
		case <-timer.C:
		case <-s.rouser:
		case <-s.stop:
			for i := range s.parts {
				s.parts[i].letGo()
			}
			return
		}
	}
}

// look begins what is due for a partition.
func (s *holdings) look(pt *part) {
	leads := s.leads(pt.stream)
	switch {
	case pt.busy.Load():
		if !leads || s.must() || s.overtaken(pt) || pt.passing.Load() && !s.serves(pt) {
			pt.letGo()
		}
	case !leads || pt.passing.Load() || time.Now().Before(pt.next):
	case !s.may(): // elected all the same: one that may claim is to lead
		s.abdicate(pt.stream)
		pt.next = time.Now().Add(claimAfterLoss)
	default:
		ctx, cancel := context.WithCancel(context.Background())
		pt.resign = cancel
		pt.busy.Store(true)
		s.loop.Go(func() {
			defer cancel()
			s.own(ctx, pt)
			pt.busy.Store(false)
		})
	}
}

// overtaken reports whether another node has claimed a partition of this one. The log tells it with
// the next append, which may be far: a node that has lost the lead and has it again, between two
// looks, would go on with the old claim, and the others know the newer one.
func (s *holdings) overtaken(pt *part) bool {
	o, release := s.hold(pt.number)
	if o == nil {
		return false
	}
	defer release()
	return o.log.Epoch() < s.newest(pt.number)
}

// serves reports whether a partition is this node's now.
func (s *holdings) serves(pt *part) bool {
	o, release := s.hold(pt.number)
	if o == nil {
		return false
	}
	release()
	return true
}

// passEvery is how often pass looks whether a claim is over.
const passEvery = time.Millisecond

// pass has another node lead a partition's log, by calling step. A claim that is being made is
// given up before, so that nothing of it comes behind the heir's claim; what is served already is
// served until the heir leads. It waits for the claim until ctx is done.
func (s *holdings) pass(ctx context.Context, p int, step func() error) error {
	pt := &s.parts[p]
	pt.passing.Store(true)
	defer pt.passing.Store(false)
	for pt.busy.Load() && !s.serves(pt) && ctx.Err() == nil {
		time.Sleep(passEvery)
	}
	return step()
}

// letGo has a partition resigned, or its claim given up.
func (pt *part) letGo() {
	if pt.resign != nil {
		pt.resign()
	}
}

// own claims a partition, and serves it until ctx is done: then this node has to resign.
func (s *holdings) own(ctx context.Context, pt *part) {
	began := time.Now()
	status := &ClaimStatus{AtMS: began.UnixMilli(), Reason: s.reason(pt)}
	o, epoch, err := s.claim(ctx, pt, status)
	if ctx.Err() != nil && err != nil {
		return // it does not lead the log any more
	}
	if err != nil {
		s.figures.failed.Inc()
		s.refused(pt, epoch, err)
		return
	}
	pt.unusable.Store(0)
	status.TookMS = time.Since(began).Milliseconds()
	s.figures.claimed(status.Reason, time.Since(began))
	pt.last.Store(status)
	s.logger.Info("owns a partition", "partition", pt.number, "epoch", o.log.Epoch(),
		"reason", status.Reason, "took", time.Since(began).Round(time.Millisecond),
		"devices", o.engine.Stats().Devices)
	s.changed()
	select {
	case <-o.log.Failed():
	case <-ctx.Done():
	}
	s.resigned(pt, o)
}

// refused says when a claim that did not succeed is made again. Its epoch is 0 where the log was
// not claimed.
func (s *holdings) refused(pt *part, epoch uint64, err error) {
	var damage *jslog.DamageError
	var format *jslog.FormatError
	wait := claimAgain
	switch {
	case errors.As(err, &damage), errors.As(err, &format), errors.Is(err, record.Err),
		errors.Is(err, errConfig):
		// Another copy may be whole, and another node may read what this version does not.
		wait = claimUnusable
		if damage == nil && !errors.Is(err, errConfig) {
			epoch = untilRestart
		}
		pt.unusable.Store(epoch)
		s.changed() // so that it is not given back
		s.abdicate(pt.stream)
		s.logger.Error("this node cannot own a partition: its log cannot be used; other copies may "+
			"be whole, see docs/cluster.md", "partition", pt.number, "error", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, jslog.ErrLost),
		errors.Is(err, jslog.ErrUnread):
		// As when an owner has no acknowledgement, see resigned.
		wait = claimAfterLoss
		s.abdicate(pt.stream)
		fallthrough
	default:
		s.logger.Warn("a partition could not be claimed; the next try follows", "partition",
			pt.number, "error", err)
	}
	pt.next = time.Now().Add(wait)
}

// unusable are the logs that this node could not use when it claimed them last.
func (s *holdings) unusable() (all []string) {
	for p := range s.parts {
		if s.parts[p].unusable.Load() != 0 {
			all = append(all, s.parts[p].stream)
		}
	}
	return all
}

// usable takes back that logs cannot be used where a checkpoint of another owner has removed what
// was damaged. first are the sequences of the first messages of the copies on this node, by log.
func (s *holdings) usable(first map[string]uint64) {
	for p := range s.parts {
		pt := &s.parts[p]
		if epoch := pt.unusable.Load(); epoch != 0 && first[pt.stream] > epoch {
			pt.unusable.CompareAndSwap(epoch, 0)
		}
	}
}

// reason is why a claim is made.
func (s *holdings) reason(pt *part) string {
	if pt.last.Load() == nil {
		return firstClaim
	}
	return laterClaim
}

// claim makes this node the owner of a partition, and serves it. It is given up when ctx is done.
// The epoch is that of the claim, and 0 if the log was not claimed.
func (s *holdings) claim(
	ctx context.Context, pt *part, status *ClaimStatus,
) (o *owned, epoch uint64, err error) {
	asking, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if err := s.check(asking, pt.stream); err != nil {
		return nil, 0, err
	}
	log, err := jslog.Claim(asking, jslog.NATS(s.conn, pt.stream), jslog.Options{
		Node: s.node, Secret: s.secret, AckTimeout: ackTimeout, Logger: s.logger,
		ObserveAppend: s.observe,
	})
	if err != nil {
		return nil, 0, err
	}
	epoch = log.Epoch()
	defer context.AfterFunc(ctx, log.Close)() // a replay
	defer func() {
		if err != nil {
			log.Close()
		}
	}()
	hub, err := watch.NewHub(watch.HubOptions{
		Partition: pt.number, Epoch: epoch, Bus: s.bus, Vouch: log.Vouch, Clock: s.clock,
		Logger: s.logger,
	})
	if err != nil {
		return nil, epoch, err
	}
	options := s.engine
	options.Store, options.Events, options.Source = log.Store(), hub, 0
	e, err := engine.New(log, options)
	if err != nil {
		hub.Close()
		return nil, epoch, err
	}
	replay := time.Now()
	if err = e.Recover(); err == nil {
		status.ReplayMS = time.Since(replay).Milliseconds()
		s.figures.replay.Observe(time.Since(replay).Seconds())
		err = e.Start()
	}
	if err != nil {
		log.Close()
		hub.Close()
		return nil, epoch, errors.Join(err, e.Close(context.Background()))
	}
	hub.Open(e)
	o = &owned{pt.number, log, e, hub}
	s.figuresMu.Lock()
	pt.counted = o
	s.figuresMu.Unlock()
	pt.mu.Lock()
	pt.owned = o
	pt.mu.Unlock()
	return o, epoch, nil
}

// resigned drops a partition: what waits for its log is refused, and when nothing holds it any more
// the engine goes.
func (s *holdings) resigned(pt *part, o *owned) {
	began := time.Now()
	why := o.log.Err()
	o.log.Close()
	o.hub.Close()
	pt.mu.Lock()
	pt.owned = nil
	pt.mu.Unlock()
	s.figuresMu.Lock()
	pt.counted = nil
	addGone(&s.gone, o.engine.Stats())
	s.figuresMu.Unlock()
	if err := o.engine.Close(context.Background()); err != nil {
		s.logger.Error("an engine did not close", "partition", pt.number, "error", err)
	}
	s.figures.resigned(why)
	if why != nil || s.must() {
		// Its appends are not acknowledged, though it may still reach others that take it for the
		// leader. Another one may do better.
		s.abdicate(pt.stream)
		pt.next = time.Now().Add(claimAfterLoss)
	}
	s.logger.Info("resigned from a partition", "partition", pt.number, "epoch", o.log.Epoch(),
		"took", time.Since(began).Round(time.Millisecond), "because", whyResigned(why))
	s.changed()
}

// whyResigned says what ended an ownership.
func whyResigned(why error) string {
	if why != nil {
		return why.Error()
	}
	return "another node leads its log, or is to"
}

// stats sums up the engines of this node's partitions, with the counters of those that it has
// resigned from: counters do not fall, so one that is being resigned counts to its end.
func (s *holdings) stats() engine.Stats {
	s.figuresMu.Lock()
	defer s.figuresMu.Unlock()
	sum := s.gone
	for i := range s.parts {
		if o := s.parts[i].counted; o != nil {
			addStats(&sum, o.engine.Stats())
		}
	}
	return sum
}
