package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/cluster/embed"
	"rollcall/jslog"
)

// metaStream is the stream that is made last: where it is, the cluster is.
const metaStream = "META"

// What the configurations of the streams say.
const (
	partitionsKey = "rollcall_partitions"
	replicasKey   = "rollcall_replicas"
	secretKey     = "rollcall_secret"
)

// secretBytes is the length of the key of hashes.
const secretBytes = 32

// joinEvery is how often a node tries to join, or to make the cluster.
const joinEvery = 100 * time.Millisecond

// join joins the cluster, or makes it, and begins to serve.
func (n *Node) join() {
	for {
		secret, err := n.tryJoin()
		if err == nil {
			n.holdings.secret = secret
			n.phase.CompareAndSwap(starting, serving)
			n.holdings.start()
			n.o.Logger.Info("joined the cluster", "cluster", n.o.Name)
			return
		}
		var refused *refusedError
		if errors.As(err, &refused) {
			n.fail(err)
			return
		}
		n.o.Logger.Debug("not in the cluster yet", "error", err)
		select {
		case <-n.stop:
			return
		case <-time.After(joinEvery):
		}
	}
}

// refusedError says that trying again does not help.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return "cluster: " + e.text }

// tryJoin returns the key of hashes of the cluster that is there, or that this node makes.
func (n *Node) tryJoin() (secret []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	leader, _ := n.server.Meta()
	if leader == "" {
		return nil, errors.New("no node leads the cluster")
	}
	meta, err := n.server.Stream(ctx, metaStream)
	if errors.Is(err, embed.ErrNoStream) {
		return nil, n.make(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := n.checkStored(meta.Config.Metadata); err != nil {
		return nil, err
	}
	return hex.DecodeString(meta.Config.Metadata[secretKey])
}

// checkStored compares what the cluster was made with to what this node was told.
func (n *Node) checkStored(stored map[string]string) error {
	for key, is := range map[string]int{
		partitionsKey: n.o.Partitions, replicasKey: n.o.Replicas,
	} {
		if stored[key] != strconv.Itoa(is) {
			return &refusedError{fmt.Sprintf("%s is %d here, but the cluster was made with %s",
				key, is, stored[key])}
		}
	}
	return nil
}

// make makes the streams of a new cluster, the last of them the one that says that it is made. The
// node that leads does it; a node that is stopped in the middle is followed by another one.
func (n *Node) make(ctx context.Context) error {
	if n.o.Bootstrap == 0 {
		return errors.New("there is no cluster to join, and Bootstrap does not ask for a new one")
	}
	if met := len(n.bus.Peers()) + 1; met < n.o.Bootstrap {
		return fmt.Errorf("%d of %d nodes have met", met, n.o.Bootstrap)
	}
	if !n.server.LeadsMeta() {
		return errors.New("another node makes the cluster")
	}
	secret, err := n.newSecret(ctx)
	if err != nil {
		return err
	}
	for p := range n.o.Partitions {
		if err := n.server.Create(ctx, n.streamConfig(streamOf(p), secret)); err != nil {
			return err
		}
	}
	if err := n.server.Create(ctx, n.streamConfig(metaStream, secret)); err != nil {
		return err
	}
	return errors.New("made the cluster")
}

// newSecret is the key of hashes: that of a stream that is there already, or a new one.
func (n *Node) newSecret(ctx context.Context) (string, error) {
	first, err := n.server.Stream(ctx, streamOf(0))
	if err == nil {
		return first.Config.Metadata[secretKey], nil
	}
	if !errors.Is(err, embed.ErrNoStream) {
		return "", err
	}
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:]), nil
}

func (n *Node) streamConfig(name, secret string) *nats.StreamConfig {
	return jslog.Config(name, n.o.Replicas, map[string]string{
		partitionsKey: strconv.Itoa(n.o.Partitions), replicasKey: strconv.Itoa(n.o.Replicas),
		secretKey: secret,
	})
}
