// Package bustest is a bus in memory for tests, which can lose and hold back what is sent.
package bustest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"rollcall/cluster/bus"
)

// Net carries the messages of a test's nodes. Any goroutine may call its methods.
type Net struct {
	mu    sync.Mutex
	idle  sync.Cond       // of mu: busy may have become 0
	nodes map[string]*Bus // guarded by mu
	links map[link]*state // guarded by mu
	drop  func(from, to string, s bus.Subject, data []byte) bool
	busy  int // messages that wait for a handler, or are in one. guarded by mu
}

// link is one direction between two nodes, or from a node to itself.
type link struct{ from, to string }

// state is what a test did to a link.
type state struct {
	cut, held bool
	waiting   []func() // deliveries, while held
}

// New returns a network without nodes.
func New() *Net {
	n := &Net{nodes: map[string]*Bus{}, links: map[link]*state{}}
	n.idle.L = &n.mu
	return n
}

// Node adds a node, in reach of all others. It replaces one of the same name.
func (n *Net) Node(name string) *Bus {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := &Bus{net: n, name: name, inboxes: map[bus.Subject]*inbox{}}
	n.nodes[name] = b
	return b
}

// Remove takes a node away: what waits for its handlers still comes to them.
func (n *Net) Remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nodes, name)
}

// Cut loses what one node sends to another from now on, answers too. Peers still names it.
func (n *Net) Cut(from, to string) { n.set(from, to, func(s *state) { s.cut = true }) }

// Hold keeps back what one node sends to another from now on.
func (n *Net) Hold(from, to string) { n.set(from, to, func(s *state) { s.held = true }) }

// Heal ends Cut and Hold: what was kept back arrives, in its order.
func (n *Net) Heal(from, to string) {
	n.set(from, to, func(s *state) {
		for _, deliver := range s.waiting {
			deliver()
		}
		*s = state{}
	})
}

func (n *Net) set(from, to string, fn func(s *state)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := link{from, to}
	if n.links[l] == nil {
		n.links[l] = new(state)
	}
	fn(n.links[l])
}

// Drop has fn decide which messages are lost: those for which it returns true. Answers are not
// asked for. nil: none.
func (n *Net) Drop(fn func(from, to string, s bus.Subject, data []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = fn
}

// Settle returns when no message is on its way or in a handler, but for those that are held.
func (n *Net) Settle() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.busy > 0 {
		n.idle.Wait()
	}
}

// pass has deliver called at once, later or never, as the link wants. n.mu is held, then too.
func (n *Net) passLocked(from, to string, deliver func()) {
	s := n.links[link{from, to}]
	switch {
	case s == nil:
		deliver()
	case s.cut:
	case s.held:
		s.waiting = append(s.waiting, deliver)
	default:
		deliver()
	}
}

// Bus is the bus of one node.
type Bus struct {
	net     *Net
	name    string
	inboxes map[bus.Subject]*inbox // guarded by Net.mu
}

var _ bus.Bus = (*Bus)(nil)

// inbox is what waits for the handler of a subject.
type inbox struct {
	net      *Net
	handle   func(m bus.Message)
	messages []bus.Message // guarded by Net.mu
	running  bool          // a goroutine hands them out. guarded by Net.mu
}

// Self implements bus.Bus.
func (b *Bus) Self() string { return b.name }

// Handle implements bus.Bus.
func (b *Bus) Handle(s bus.Subject, fn func(m bus.Message)) {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	b.inboxes[s] = &inbox{net: b.net, handle: fn}
}

// Peers implements bus.Bus.
func (b *Bus) Peers() []string {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	names := slices.Sorted(maps.Keys(b.net.nodes))
	return slices.DeleteFunc(names, func(name string) bool { return name == b.name })
}

// Send implements bus.Bus. Its queue has no bound.
func (b *Bus) Send(to string, s bus.Subject, data []byte) bool {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	b.sendLocked(to, s, bus.Message{From: b.name, Data: data})
	return true
}

// sendLocked puts a message on its way; false: it arrives at none.
func (b *Bus) sendLocked(to string, s bus.Subject, m bus.Message) bool {
	n := b.net
	if n.drop != nil && n.drop(b.name, to, s, m.Data) {
		return true
	}
	if n.nodes[to] == nil || n.nodes[to].inboxes[s] == nil {
		return false
	}
	n.passLocked(b.name, to, func() {
		if node := n.nodes[to]; node != nil && node.inboxes[s] != nil {
			node.inboxes[s].putLocked(m)
		}
	})
	return true
}

// Request implements bus.Bus.
func (b *Bus) Request(
	ctx context.Context, to string, s bus.Subject, data []byte,
) ([]byte, error) {
	answer := make(chan []byte, 1)
	n := b.net
	m := bus.Message{From: b.name, Data: data, Reply: func(data []byte) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.passLocked(to, b.name, func() {
			select {
			case answer <- data:
			default:
			}
		})
	}}
	n.mu.Lock()
	sent := b.sendLocked(to, s, m)
	n.mu.Unlock()
	if !sent {
		return nil, bus.ErrNoNode
	}
	select {
	case data := <-answer:
		return data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (i *inbox) putLocked(m bus.Message) {
	i.messages = append(i.messages, m)
	i.net.busy++
	if !i.running {
		i.running = true
		go i.run()
	}
}

// run calls the handler until nothing waits.
func (i *inbox) run() {
	n := i.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(i.messages) > 0 {
		m := i.messages[0]
		i.messages = i.messages[1:]
		n.mu.Unlock()
		i.handle(m)
		n.mu.Lock()
		if n.busy--; n.busy == 0 {
			n.idle.Broadcast()
		}
	}
	i.running = false
}
