package cluster

import (
	"context"
	"sync"

	"rollcall/cluster/bus"
)

// lateBus is the bus of a node, before its server runs, too: until then no node is in reach. Any
// goroutine may call its methods.
type lateBus struct {
	self string

	mu       sync.RWMutex
	to       bus.Bus                             // guarded by mu; nil: not yet, or not any more
	handlers map[bus.Subject]func(m bus.Message) // guarded by mu
}

func newLateBus(self string) *lateBus {
	return &lateBus{self: self, handlers: map[bus.Subject]func(bus.Message){}}
}

// attach gives the bus its messages. nil: there are none any more.
func (b *lateBus) attach(to bus.Bus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = to
	if to == nil {
		return
	}
	for s, fn := range b.handlers {
		to.Handle(s, fn)
	}
}

func (b *lateBus) get() bus.Bus {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.to
}

// Self implements bus.Bus.
func (b *lateBus) Self() string { return b.self }

// Handle implements bus.Bus.
func (b *lateBus) Handle(s bus.Subject, fn func(m bus.Message)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers[s] = fn
	if b.to != nil {
		b.to.Handle(s, fn)
	}
}

// Send implements bus.Bus.
func (b *lateBus) Send(to string, s bus.Subject, data []byte) bool {
	now := b.get()
	return now != nil && now.Send(to, s, data)
}

// Request implements bus.Bus.
func (b *lateBus) Request(
	ctx context.Context, to string, s bus.Subject, data []byte,
) ([]byte, error) {
	now := b.get()
	if now == nil {
		return nil, bus.ErrNoNode
	}
	return now.Request(ctx, to, s, data)
}

// Peers implements bus.Bus.
func (b *lateBus) Peers() []string {
	now := b.get()
	if now == nil {
		return nil
	}
	return now.Peers()
}
