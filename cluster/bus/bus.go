// Package bus says how the nodes of a cluster talk to each other.
package bus

import (
	"context"
	"errors"
)

// Why a message got no answer.
var (
	// ErrNoNode says that no node of this name is in reach.
	ErrNoNode = errors.New("bus: the node is not in reach")
	// ErrFull says that too much waits for the node.
	ErrFull = errors.New("bus: too much waits for the node")
)

// Subject names what a message is for.
type Subject string

// Bus carries messages between the nodes of a cluster, this one included. Any goroutine may call
// its methods, Handle before Start only.
type Bus interface {
	// Self is the name of this node.
	Self() string
	// Send puts a message on its way to a node, and never blocks. Messages of one sender to one
	// node and subject arrive in the order in which they were sent, or not at all: a message is
	// lost with a connection, and false says that it was dropped at once since too much waits for
	// that node. The bus keeps data.
	Send(to string, s Subject, data []byte) bool
	// Request sends a message and waits for its answer until ctx is done. ErrNoNode, within
	// milliseconds, says that no node of that name takes the subject.
	Request(ctx context.Context, to string, s Subject, data []byte) ([]byte, error)
	// Handle has fn called for each message of a subject, one at a time and in order. It must not
	// block, and may keep the message.
	Handle(s Subject, fn func(m Message))
	// Peers are the names of the other nodes in reach now.
	Peers() []string
}

// Message is one that has arrived.
type Message struct {
	From string // the node that sent it
	Data []byte
	// Reply answers a Request; nil: it was Sent. Call it once, from any goroutine.
	Reply func(data []byte)
}
