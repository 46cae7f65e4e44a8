package embed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/cluster/bus"
)

const (
	// maxQueue is how many bytes wait for one node before Send drops.
	maxQueue = 16 << 20
	// maxQueues bounds the nodes that messages are sent to in the life of a process. What answers
	// are sent to is a name that came with the question.
	maxQueues = 1024
	// maxUnread is how many bytes are on their way to one node without a sign that it read them. It
	// keeps what the server holds for a slow node far from the bound at which it would cut the
	// connection, which the logs need, too.
	maxUnread = 8 << 20
	// signEvery is after how many bytes such a sign is asked for.
	signEvery = 1 << 20
	// signWithin is how long one may take. After it the messages before count as lost.
	signWithin = 2500 * time.Millisecond
	// maxInbox is how many bytes wait for a handler before messages are lost.
	maxInbox = 64 << 20

	sign bus.Subject = "sign"
)

// Bus is a bus.Bus over a Server. Its subjects are bus.TO.SUBJECT.FROM.
//
// A node has a queue and a sender of its own, so a slow one holds up no other.
type Bus struct {
	server *Server
	conn   *nats.Conn

	mu     sync.Mutex
	queues map[string]*queue // by node. guarded by mu
	closed bool              // guarded by mu
	loops  sync.WaitGroup
}

var _ bus.Bus = (*Bus)(nil)

// NewBus makes the bus of a server. It has a connection of its own, so that appends to the logs do
// not wait behind its messages.
func NewBus(s *Server) (*Bus, error) {
	conn, err := s.Dial("bus")
	if err != nil {
		return nil, err
	}
	b := &Bus{server: s, conn: conn, queues: map[string]*queue{}}
	b.Handle(sign, func(m bus.Message) {
		if m.Reply != nil {
			m.Reply(nil)
		}
	})
	return b, nil
}

// Self implements bus.Bus.
func (b *Bus) Self() string { return b.server.Name() }

// Peers implements bus.Bus.
func (b *Bus) Peers() []string {
	names := slices.Sorted(maps.Keys(b.server.Routes()))
	return slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, Guest)
	})
}

// Handle implements bus.Bus.
func (b *Bus) Handle(s bus.Subject, fn func(m bus.Message)) {
	sub, err := b.conn.Subscribe(b.subject(b.Self(), s)+"*", func(msg *nats.Msg) {
		m := bus.Message{Data: msg.Data}
		m.From = msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
		if msg.Reply != "" {
			m.Reply = func(data []byte) { _ = b.conn.Publish(msg.Reply, data) }
		}
		fn(m)
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, maxInbox)
	}
	if err == nil {
		err = b.conn.Flush()
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		panic("bug: a subscription in this process was refused: " + err.Error())
	}
}

// subject is that of messages to a node, but for the sender at its end.
func (b *Bus) subject(to string, s bus.Subject) string {
	return "bus." + to + "." + string(s) + "."
}

// Send implements bus.Bus.
func (b *Bus) Send(to string, s bus.Subject, data []byte) bool {
	if len(data) > MaxMessage {
		panic(fmt.Sprintf("bug: a message of %d bytes for %s", len(data), s))
	}
	q := b.queue(to)
	return q != nil && q.put(letter{b.subject(to, s) + b.Self(), data})
}

// Request implements bus.Bus.
func (b *Bus) Request(
	ctx context.Context, to string, s bus.Subject, data []byte,
) ([]byte, error) {
	m, err := b.conn.RequestWithContext(ctx, b.subject(to, s)+b.Self(), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, bus.ErrNoNode
	case err != nil:
		return nil, fmt.Errorf("cluster/embed: ask %s for %s: %w", to, s, err)
	}
	return m.Data, nil
}

// queue returns the queue of a node; nil: the bus is closed, or there were too many nodes.
func (b *Bus) queue(to string) *queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	q := b.queues[to]
	if q == nil && len(b.queues) >= maxQueues {
		return nil
	}
	if q == nil {
		q = &queue{bus: b, to: to}
		q.filled.L = &q.mu
		b.queues[to] = q
		b.loops.Go(q.run)
	}
	return q
}

// Close drops what waits, and ends the bus.
func (b *Bus) Close() {
	b.mu.Lock()
	b.closed = true
	queues := slices.Collect(maps.Values(b.queues))
	b.mu.Unlock()
	b.conn.Close()
	for _, q := range queues {
		q.close()
	}
	b.loops.Wait()
}

// letter is a message on its way.
type letter struct {
	subject string
	data    []byte
}

// queue is what waits for one node.
type queue struct {
	bus *Bus
	to  string

	mu      sync.Mutex
	filled  sync.Cond // of mu: letters is not empty, or closed
	letters []letter  // guarded by mu
	bytes   int       // of letters. guarded by mu
	closed  bool      // guarded by mu
}

func (q *queue) put(l letter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.bytes+len(l.data) > maxQueue {
		return false
	}
	q.letters = append(q.letters, l)
	q.bytes += len(l.data)
	q.filled.Signal()
	return true
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.letters = true, nil
	q.filled.Signal()
}

// take waits for letters, and returns all; none: the queue is closed.
func (q *queue) take(empty []letter) []letter {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.letters) == 0 && !q.closed {
		q.filled.Wait()
	}
	all := q.letters
	q.letters, q.bytes = empty[:0], 0
	return all
}

// run sends what is put until the queue is closed.
func (q *queue) run() {
	signs := make(chan struct{}, maxUnread/signEvery)
	unread, unsigned := 0, 0
	var letters []letter
	for {
		clear(letters)
		if letters = q.take(letters); len(letters) == 0 {
			return
		}
		for _, l := range letters {
			_ = q.bus.conn.Publish(l.subject, l.data)
			if unsigned += len(l.data); unsigned < signEvery {
				continue
			}
			unsigned = 0
			if unread++; unread == cap(signs) {
				<-signs
				unread--
			}
			q.bus.loops.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), signWithin)
				defer cancel()
				_, _ = q.bus.Request(ctx, q.to, sign, nil)
				signs <- struct{}{}
			})
		}
	}
}
