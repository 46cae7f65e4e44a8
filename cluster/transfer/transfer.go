// Package transfer carries the devices of a cluster out of it and into it, a page of records at a
// time: from a partition's owner, or to it, through any node.
//
// A page is at most some hundred KiB, and stands for itself: what asks for the next one says behind
// which place. So an owner keeps nothing between two, a partition may have another owner in
// between, and a page that does not come is asked for again. Page says what the bytes are.
package transfer

import (
	"context"
	"errors"
	"fmt"

	"rollcall/cluster/bus"
	"rollcall/engine"
)

// Subject is that of all messages.
const Subject bus.Subject = "transfer"

const (
	// PageBytes is about how many bytes of records a page has.
	PageBytes = 384 << 10
	// MaxPageBytes bounds the records of a page.
	MaxPageBytes = 448 << 10
	// atOnce is how many requests an owner works on at a time; one more is refused.
	atOnce = 4
)

// ErrNoOwner says that no owner of the partition is in reach now, or that it is busy: ask again.
var ErrNoOwner = errors.New("transfer: the partition has no owner in reach, or it is busy")

// Partitions are those of the node.
type Partitions interface {
	// Owner returns the node that owns a partition; "": none is known.
	Owner(p int) string
	// Mine returns the engine of a partition that this node owns and is sure of, for use until
	// release.
	Mine(p int) (e *engine.Engine, release func(), ok bool)
}

// Transfer is a node's part of it. Any goroutine may use it.
type Transfer struct {
	bus        bus.Bus
	partitions Partitions
	working    chan struct{}
}

// New returns a node's Transfer, and takes the bus's messages for it. Before the bus starts.
func New(b bus.Bus, p Partitions) *Transfer {
	t := &Transfer{bus: b, partitions: p, working: make(chan struct{}, atOnce)}
	b.Handle(Subject, t.receive)
	return t
}

// Export returns a page of a partition's devices, those behind a place; nil: from the beginning.
func (t *Transfer) Export(ctx context.Context, p int, after []byte) (Page, error) {
	answer, err := t.ask(ctx, request{what: askExport, partition: p, body: after})
	if err != nil {
		return Page{}, err
	}
	return ParsePage(answer)
}

// Import makes the devices of a page known that are not, and returns how many these were.
func (t *Transfer) Import(ctx context.Context, p int, page []byte) (taken int, err error) {
	answer, err := t.ask(ctx, request{what: askImport, partition: p, body: page})
	if err != nil {
		return 0, err
	}
	return parseCount(answer)
}

// Devices returns how many devices a partition has.
func (t *Transfer) Devices(ctx context.Context, p int) (int, error) {
	answer, err := t.ask(ctx, request{what: askDevices, partition: p})
	if err != nil {
		return 0, err
	}
	return parseCount(answer)
}

// ask asks a partition's owner.
func (t *Transfer) ask(ctx context.Context, r request) ([]byte, error) {
	to := t.partitions.Owner(r.partition)
	if to == "" {
		return nil, ErrNoOwner
	}
	answer, err := t.bus.Request(ctx, to, Subject, r.append(nil))
	switch {
	case errors.Is(err, bus.ErrNoNode), errors.Is(err, bus.ErrFull),
		errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: %w", ErrNoOwner, err)
	case err != nil:
		return nil, err
	}
	return cutAnswer(answer)
}

// receive answers a request that came over the bus, on a goroutine of its own.
func (t *Transfer) receive(m bus.Message) {
	if m.Reply == nil {
		return
	}
	r, err := parseRequest(m.Data)
	if err != nil {
		m.Reply(appendError(nil, err))
		return
	}
	select {
	case t.working <- struct{}{}:
	default:
		m.Reply(appendError(nil, ErrNoOwner))
		return
	}
	go func() {
		defer func() { <-t.working }()
		m.Reply(t.answer(r))
	}()
}

// answer does what a request asks for.
func (t *Transfer) answer(r request) []byte {
	e, release, ok := t.partitions.Mine(r.partition)
	if !ok {
		return appendError(nil, ErrNoOwner)
	}
	defer release()
	switch r.what {
	case askExport:
		states, next, err := e.Export(nil, r.body, PageBytes)
		if err != nil {
			return appendError(nil, fmt.Errorf("%w: %w", ErrNoOwner, err))
		}
		return Page{States: states, Next: next}.Append(appendOK(nil))
	case askImport:
		page, err := ParsePage(r.body)
		if err != nil {
			return appendError(nil, err)
		}
		taken, err := e.Import(page.States)
		if err != nil {
			return appendError(nil, err)
		}
		return appendCount(appendOK(nil), taken)
	default:
		return appendCount(appendOK(nil), e.Stats().Devices)
	}
}
