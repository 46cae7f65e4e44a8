package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"rollcall/internal/sample"
)

// haveLoops: there is an epoll.
const haveLoops = true

// servedEnough is how many requests a connection must have sent in a loop so that its return does
// not count.
const servedEnough = 64

// loops has the connections that wait for their next request, and serves their plain requests.
// fasthttp gives a goroutine, a reader and a request to each connection that it serves; one of a
// loop has none of them, not even a net.Conn, only a descriptor and a slot. P1 to P5 of doc.go are
// kept here and in loop.
//
//	fasthttp ► a heartbeat was accepted, or conn.Read waits in vain ► io.EOF ► conn.Close ► enter
//	    ▲                                                                                     │
//	    └──────────── returns.Accept ◄── giveBack ◄── a request that is not plain ◄── loop ◄──┘
//
// Any goroutine may call its methods; those of a nil loops do nothing.
type loops struct {
	counts       *counts
	after        time.Duration // IdleAfter; 0: none is suspended for its idleness
	timeout      time.Duration // IdleTimeout
	readTimeout  time.Duration
	writeTimeout time.Duration
	logger       *slog.Logger
	logged       sample.Second // of connections that could not be watched
	began        time.Time
	serves       bool // plain requests
	all          []*loop
	next         atomic.Uint32 // the loop of the next connection
	returns      *returns
	watching     watching
	ended        atomic.Bool   // close was called
	served       chan struct{} // closed when fasthttp accepts none from returns any more
}

// newLoops makes the loops of a server, and has by serve what they do not.
func newLoops(counts *counts, c *Config, by *fasthttp.Server) (*loops, error) {
	ls := &loops{
		counts:       counts,
		timeout:      c.IdleTimeout,
		readTimeout:  c.ReadTimeout,
		writeTimeout: c.WriteTimeout,
		logger:       c.Logger,
		began:        counts.strangers.began,
		serves:       c.Loops > 0,
		served:       make(chan struct{}),
	}
	if c.IdleAfter < c.IdleTimeout {
		ls.after = c.IdleAfter
	} else if !ls.serves {
		return nil, nil
	}
	ls.returns = newReturns(ls)
	ls.watching.init(ls)
	for range max(1, c.Loops) {
		var requests Requests
		if ls.serves {
			requests = c.NewRequests()
		}
		l, err := newLoop(ls, requests)
		if err != nil {
			for _, l := range ls.all {
				l.finish()
			}
			return nil, err
		}
		ls.all = append(ls.all, l)
	}
	for _, l := range ls.all {
		l.start()
	}
	go ls.watching.run()
	go func() {
		defer close(ls.served)
		_ = by.Serve(ls.returns) // nil: Accept has no error but that of Close
	}()
	return ls, nil
}

// takes reports whether a connection may enter: one of the kernel's, with nothing above it that
// could hold bytes back, as TLS does.
func (ls *loops) takes(c net.Conn) bool {
	if ls == nil {
		return false
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// enter makes a loop keep a connection until its wait is over, and returns true: the net.Conn is
// closed then. False: the connection is still the caller's, who closes it.
func (ls *loops) enter(c net.Conn, peer peer, until time.Time, returns uint8) bool {
	// A descriptor of its own: that of c is in Go's poller, and leaves it only by being closed.
	fd := -1
	err := control(c, func(of int) (err error) {
		fd, err = unix.FcntlInt(uintptr(of), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		ls.unwatched(err)
		return false
	}
	_ = c.Close()
	l := ls.all[0] // strangers are in one loop, so that the oldest is found
	if n := len(ls.all); peer.known && n > 1 {
		l = ls.all[ls.next.Add(1)%uint32(n)]
	}
	if !l.add(int32(fd), peer, until.Sub(ls.began), returns) {
		_ = unix.Close(fd)
		return false
	}
	return true
}

// servesPlain reports whether plain requests are served here.
func (ls *loops) servesPlain() bool { return ls.serves }

// add makes a connection one of the loop's; false: the loop is closing. Input or a hang-up that is
// there already is reported, too (P2).
func (l *loop) add(fd int32, peer peer, until time.Duration, returns uint8) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	in := known
	if !peer.known {
		in = strange
	}
	index := l.slots.add(fd, peer, in, until)
	l.slots.all[index].returns = returns
	l.entered++
	l.watch(index, input)
	l.wakeBy(until)
	return true
}

// wakeBy ends the reader's wait if that would last longer than until an instant, since the loops
// began.
func (l *loop) wakeBy(until time.Duration) {
	if until < l.wakesAt {
		l.wakesAt = until
		l.wakeUp()
	}
}

// wakeUp ends the reader's wait.
func (l *loop) wakeUp() {
	one := [8]byte{1}
	_, _ = unix.Write(l.wake, one[:])
}

// control holds on to a connection's descriptor: a closed one could be another file's by now.
func control(c net.Conn, use func(fd int) error) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	closed := raw.Control(func(fd uintptr) { failed = use(int(fd)) })
	return errors.Join(closed, failed)
}

// unwatched logs that a connection could not be watched.
func (ls *loops) unwatched(err error) {
	if ls.logged.Take() {
		ls.logger.Warn("an idle connection cannot be watched and is closed", "error", err)
	}
}

// evict closes the stranger that is suspended for the longest time if its wait began before an
// instant, which counts from began (P8).
func (ls *loops) evict(before time.Duration) bool {
	if ls == nil {
		return false
	}
	l := ls.all[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	index := l.slots.oldest(strange)
	if index == 0 || l.slots.all[index].until > before+ls.timeout-ls.counts.strangerCut {
		return false
	}
	l.drop(index)
	return true
}

// addStats adds the counts of the loops.
func (ls *loops) addStats(s *Stats) {
	if ls == nil {
		return
	}
	for _, l := range ls.all {
		l.mu.Lock()
		s.Idle += l.slots.used
		s.Suspended += l.entered
		s.Plain += l.plain
		s.Returned += l.returned
		s.StandIns += l.standIns
		l.mu.Unlock()
	}
}

// close answers what has come in, closes the connections to which nothing is owed, and returns when
// the others are closed, too. No connection enters any more. When ctx ends it closes them all and
// returns its error.
func (ls *loops) close(ctx context.Context) (err error) {
	if ls == nil || ls.ended.Swap(true) {
		return nil
	}
	for _, l := range ls.all {
		l.mu.Lock()
		l.closing = true
		l.wakeUp()
		l.mu.Unlock()
	}
	for _, l := range ls.all {
		select {
		case <-l.done:
		case <-ctx.Done():
			err = fmt.Errorf("heartbeats in flight: %w", ctx.Err())
			l.abort()
			<-l.done // soon: where the reader is away, another one takes its place
		}
	}
	ls.watching.stop()
	_ = ls.returns.Close()
	<-ls.served
	return err
}

// abort closes all connections, and gives up the answers that are owed. The reader ends then.
func (l *loop) abort() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.owing, l.owed = nil, 0
	l.settled.Broadcast()
	for i := range l.slots.all {
		if l.slots.all[i].fd >= 0 {
			l.drop(uint32(i))
		}
		if l.slots.used == 0 {
			break
		}
	}
	l.wakeUp()
}

// watching looks after commits that last long, while there are any commits.
type watching struct {
	loops *loops
	on    atomic.Bool // run looks, see keep
	wake  chan struct{}
	end   chan struct{}
	done  chan struct{}
}

func (w *watching) init(ls *loops) {
	w.loops = ls
	w.wake = make(chan struct{}, 1)
	w.end, w.done = make(chan struct{}), make(chan struct{})
}

// keep has the commit that has begun looked after. The loop has stored when it began, and then
// loads on; run stores that it is off, and then looks at the commits once more. So one of the two
// sees the other.
func (w *watching) keep() {
	if !w.on.Load() && !w.on.Swap(true) {
		w.wake <- struct{}{}
	}
}

// idleLooks is how many looks in a row find no commit before the watch is off.
const idleLooks = 20

// run is the watch. Its look is every slowCommit while there are commits, and it parks when there
// are none.
func (w *watching) run() {
	defer close(w.done)
	ticker := time.NewTicker(slowCommit)
	ticker.Stop()
	for {
		select {
		case <-w.wake:
		case <-w.end:
			return
		}
		ticker.Reset(slowCommit)
		for idle := 0; idle < idleLooks; {
			select {
			case <-ticker.C:
			case <-w.end:
				return
			}
			idle++
			for _, l := range w.loops.all {
				if l.look() {
					idle = 0
				}
			}
			if idle == idleLooks {
				w.on.Store(false)
				for _, l := range w.loops.all {
					if l.committing.Load() != 0 && !w.on.Swap(true) {
						idle = 0
					}
				}
			}
		}
		ticker.Stop()
	}
}

func (w *watching) stop() {
	close(w.end)
	<-w.done
}

// look has another goroutine read when a commit lasts long, and answers what is owed when the log
// says that it is not to be waited for. It reports whether there is or was a commit.
func (l *loop) look() bool {
	began := l.committing.Load()
	if began == 0 {
		n := l.commits.Load()
		was := l.seen
		l.seen = n
		return n != was
	}
	if time.Since(l.began)-time.Duration(began) < slowCommit {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.committing.Load() != began || l.closed {
		return true
	}
	if l.stoodIn != began {
		l.stoodIn = began
		l.standIns++
		l.reader++
		l.wakeUp() // one that waits ends, and neither takes a later wake-up nor outlives the epoll
		go l.run(l.reader)
	}
	if err := l.requests.Stalled(); err != nil && len(l.owing) > 0 {
		l.answer(l.owing[len(l.owing)-1].lsn, err)
	}
	return true
}
