package engine

import (
	"errors"
	"net"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
)

// Events takes the events of an engine: every change of a device, in LSN order, once it is as
// durable as the log promises. A sink may take the events of several engines, each under the source
// that its Options name. Nothing in it may block.
type Events interface {
	// Publish takes one change. The record is valid until Publish returns. The goroutine that
	// committed it calls it, for one source one at a time.
	Publish(source broadcast.Source, user uuid.UUID, lsn uint64, record []byte)
	// Flush ends a batch: every change with an LSN at or below through has been published, and the
	// table holds it. receivedNanos is when the first heartbeat of the batch was received; 0:
	// unknown. The goroutine that committed the batch calls it, after Publish.
	Flush(source broadcast.Source, through uint64, receivedNanos int64)
	// Lose says that changes of the source were not published: the table has them. Start calls it
	// before the first Flush, since what recovery has read was not published here.
	Lose(source broadcast.Source)
	// Tick passes the time on, in nanoseconds of Options.Clock, four times a second. A goroutine of
	// the engine calls it: a sink of several engines gets it from each.
	Tick(nowNanos int64)
}

// Forgets is an Events that is told which devices are forgotten, too: one that keeps devices.
type Forgets interface {
	Events
	// Forget takes a record that says that its device is no longer known. Streams got its offline
	// before. The record is valid until Forget returns. It is called as Publish is, among its
	// calls.
	Forget(source broadcast.Source, user uuid.UUID, lsn uint64, record []byte)
}

// ErrNoStreams says that Options.Events takes the engine's events, so that it has no streams.
var ErrNoStreams = errors.New("engine: the events go elsewhere, so there are no streams here")

// streams is what the engine needs of its own broadcaster.
type streams interface {
	Start(nowNanos int64)
	Take(c net.Conn) (broadcast.Conn, error)
	Subscribe(s broadcast.Subscription) error
	ParseStreamID(text string) (broadcast.StreamID, bool)
	Renew(id broadcast.StreamID, expiresNanos int64, fits broadcast.Fits) error
	SetRestart(d time.Duration)
	Retry() time.Duration
	Open() int
	Streams(user uuid.UUID) int
	Stats() broadcast.Stats
	Drain(over time.Duration) (done <-chan struct{})
	Close()
}

// openStreams makes the own broadcaster, unless Options.Events takes the events.
func openStreams(d *devices, o *Options) (streams, Events, error) {
	if o.Events != nil {
		return noStreams{}, o.Events, nil
	}
	own, err := newBroadcaster(d, o)
	return own, own, err
}

// newBroadcaster makes a broadcaster of these devices.
func newBroadcaster(d *devices, o *Options) (*broadcast.Broadcaster, error) {
	b := o.Broadcast
	b.Codec = codec{d}
	if observe := o.ObserveDelivery; observe != nil {
		b.Delivered = func(received int64) {
			observe(time.Duration(d.clock.Nanos() - received).Seconds())
		}
	}
	return broadcast.New(b)
}

// noStreams stands for the broadcaster of an engine whose events go elsewhere.
type noStreams struct{}

func (noStreams) Start(int64)                            {}
func (noStreams) Take(net.Conn) (broadcast.Conn, error)  { return nil, ErrNoStreams }
func (noStreams) Subscribe(broadcast.Subscription) error { return ErrNoStreams }
func (noStreams) ParseStreamID(string) (none broadcast.StreamID, ok bool) {
	return none, false
}
func (noStreams) Renew(broadcast.StreamID, int64, broadcast.Fits) error {
	return broadcast.ErrNoStream
}
func (noStreams) SetRestart(time.Duration)      {}
func (noStreams) Retry() time.Duration          { return time.Second }
func (noStreams) Open() int                     { return 0 }
func (noStreams) Streams(uuid.UUID) int         { return 0 }
func (noStreams) Stats() (none broadcast.Stats) { return none }
func (noStreams) Close()                        {}
func (noStreams) Drain(time.Duration) (done <-chan struct{}) {
	none := make(chan struct{})
	close(none)
	return none
}
