package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/cluster/embed"
	"rollcall/jslog"
)

// metaStream is the stream that is made last: where it is, the cluster is. It has the id of each
// node, by its name.
const (
	metaStream   = "META"
	metaSubjects = "meta.>"
	nodeSubject  = "meta.node."
)

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

// join joins the cluster, or makes it, and begins to serve. A node that was in it begins at once,
// by what its marker says, and has the cluster confirm it.
func (n *Node) join() {
	known := n.identity.get().Cluster
	if len(known) > 0 {
		n.begin(known)
	}
	for {
		made, err := n.tryJoin()
		if err == nil && len(known) == 0 {
			if err = n.identity.change(func(m *marker) { m.Cluster = made }); err == nil {
				n.begin(made)
			}
		}
		if err == nil {
			n.o.Logger.Info("joined the cluster", "cluster", n.o.Name)
			return
		}
		var refused *refusedError
		if errors.As(err, &refused) || errors.Is(err, ErrOtherNumber) {
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

// begin begins to serve.
func (n *Node) begin(made map[string]string) {
	secret, err := hex.DecodeString(made[secretKey])
	if err != nil || len(secret) != secretBytes {
		n.fail(&refusedError{"the key of the cluster's hashes cannot be read"})
		return
	}
	n.holdings.secret = secret
	n.phase.CompareAndSwap(starting, serving)
	n.holdings.start()
}

// refusedError says that trying again does not help.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return "cluster: " + e.text }

// tryJoin returns what the cluster was made with that is there, or that this node makes.
func (n *Node) tryJoin() (made map[string]string, err error) {
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
	made = map[string]string{}
	for _, key := range []string{partitionsKey, replicasKey, secretKey} {
		made[key] = meta.Config.Metadata[key]
	}
	if was := n.identity.get().Cluster; len(was) > 0 && was[secretKey] != made[secretKey] {
		return nil, &refusedError{fmt.Sprintf("option Dir is %s: it is that of a node of another "+
			"cluster than its peers are of", n.o.Dir)}
	}
	return made, n.register(ctx)
}

// ErrOtherNumber says that the cluster was made with another number of partitions or replicas.
var ErrOtherNumber = errors.New("the cluster was made with")

// CheckStored compares the options to what the cluster was made with, if the directory has that.
// It changes nothing, so a node may be running there.
func (o Options) CheckStored() error {
	i, err := openIdentity(o.Dir, o.Node, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	o, _ = o.withDefaults()
	if stored := i.get().Cluster; len(stored) > 0 {
		return (&Node{o: o}).checkStored(stored)
	}
	return nil
}

// checkStored compares what the cluster was made with to what this node was told.
func (n *Node) checkStored(stored map[string]string) error {
	for key, is := range map[string]int{
		partitionsKey: n.o.Partitions, replicasKey: n.o.Replicas,
	} {
		name := map[string]string{partitionsKey: "Partitions", replicasKey: "Replicas"}[key]
		if stored[key] != strconv.Itoa(is) {
			return fmt.Errorf("cluster: option %s is %d: %w %s", name, is, ErrOtherNumber, stored[key])
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
	if err := n.makeLogs(ctx, secret); err != nil {
		return err
	}
	meta := n.streamConfig(metaStream, secret)
	meta.Subjects = []string{metaSubjects}
	if err := n.server.Create(ctx, meta); err != nil {
		return err
	}
	return errors.New("made the cluster")
}

// makingAtOnce is how many logs are being made at a time: the nodes sync some files for each.
const makingAtOnce = 8

// makeLogs makes the logs of all partitions. The first comes first, since newSecret looks for it.
func (n *Node) makeLogs(ctx context.Context, secret string) error {
	if err := n.server.Create(ctx, n.streamConfig(streamOf(0), secret)); err != nil {
		return err
	}
	turns := make(chan struct{}, makingAtOnce)
	errs := make([]error, n.o.Partitions)
	var group sync.WaitGroup
	for p := 1; p < n.o.Partitions; p++ {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			errs[p] = n.server.Create(ctx, n.streamConfig(streamOf(p), secret))
		})
	}
	group.Wait()
	return errors.Join(errs...)
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

// errConfig says that a stream was changed so that it may lose what it acknowledges.
var errConfig = errors.New("cluster: the configuration of the log was changed, so that it may " +
	"lose what it acknowledges")

// checkStream refuses a stream that is not as streamConfig made it. The number of its copies may
// differ: members changes it while they move.
func (n *Node) checkStream(ctx context.Context, name string) error {
	info, err := n.server.Stream(ctx, name)
	if err != nil {
		return err
	}
	c := &info.Config
	switch {
	case c.PersistMode != jetstream.DefaultPersistMode, c.Storage != jetstream.FileStorage,
		c.Retention != jetstream.LimitsPolicy, c.Discard != jetstream.DiscardNew,
		c.MaxAge > 0, c.MaxMsgsPerSubject > 0:
		return errConfig
	case c.Metadata[secretKey] != hex.EncodeToString(n.holdings.secret):
		return fmt.Errorf("%w: it is of another cluster", errConfig)
	}
	return nil
}
