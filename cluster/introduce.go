package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"rollcall/cluster/bus"
	"rollcall/cluster/embed"
)

// A node whose directory is empty is introduced before its logs are opened: a server without logs
// asks the peers whether the cluster is there, and knows the name. An empty log that voted under an
// old name could win the votes of others that lack what the lost one had acknowledged.
const (
	helloSubject bus.Subject = "hello"
	// introduceEvery is how often the peers are asked.
	introduceEvery = 100 * time.Millisecond
	// helloWithin is how long an answer may take.
	helloWithin = time.Second
	// maxHelloAsked bounds the bytes of a hello, and maxHellos how many are answered at a time.
	maxHelloAsked = 1 << 10
	maxHellos     = 16
	// waitingEvery is how often a node says in its log that it waits.
	waitingEvery = 10 * time.Second
)

// hello is what a node asks that has an empty directory.
type hello struct {
	Node string `json:"node"`
}

// welcome is what the others answer.
type welcome struct {
	Node      string `json:"node"`
	Made      bool   `json:"made"`  // the cluster is there
	Known     string `json:"known"` // the id of the node that asks, as it is known; "": it is not
	Bootstrap int    `json:"bootstrap"`
}

// errStopped says that the node was closed while it waited.
var errStopped = errors.New("cluster: the node was closed")

// checkDirectory compares the marker with what is there.
func (n *Node) checkDirectory() error {
	m := n.identity.get()
	_, err := os.Stat(filepath.Join(n.logsDir(), "jetstream"))
	gone := errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !gone:
		return fmt.Errorf("cluster: %w", err)
	case len(m.Cluster) > 0 && gone:
		return fmt.Errorf("%w from %s: start with an empty data directory under a new name, which "+
			"takes the place of %s (rollcall cluster replace)", ErrNoLogs, n.logsDir(), m.Node)
	case !n.identity.found && err == nil:
		return fmt.Errorf("cluster: %s has logs, but no %s that says whose they are", n.o.Dir,
			markerFile)
	case len(m.Cluster) > 0:
		return n.checkStored(m.Cluster)
	}
	return nil
}

// introduce waits until it is known that this node may start with an empty directory.
func (n *Node) introduce() error {
	o := n.serverOptions()
	o.Node, o.Dir = embed.Guest+n.o.Node, ""
	server, err := embed.Start(o)
	if err != nil {
		return err
	}
	defer server.Close()
	guest, err := embed.NewBus(server)
	if err != nil {
		return err
	}
	defer guest.Close()
	guest.Handle(helloSubject, n.answerHello)
	var told time.Time
	for {
		answers := n.askAll(guest, server.Routes())
		if in, err := n.admitted(answers); in || err != nil {
			return err
		}
		if time.Since(told) > waitingEvery {
			told = time.Now()
			n.o.Logger.Info("waits for other nodes, since the data directory is empty",
				"answered", len(answers))
		}
		select {
		case <-time.After(introduceEvery):
		case <-n.stop:
			return errStopped
		}
	}
}

// admitted decides by the answers of the peers whether this node may start.
func (n *Node) admitted(answers []welcome) (bool, error) {
	id := n.identity.get().ID
	met := map[string]bool{n.o.Node: true}
	made := false
	for _, a := range answers {
		if a.Known != "" && a.Known != id {
			return false, fmt.Errorf("%w, and this one's is empty (%s says so): start under a name "+
				"that no node has had, which takes the place of %s (rollcall cluster replace)",
				ErrKnownNode, a.Node, n.o.Node)
		}
		made = made || a.Made
		if a.Bootstrap == n.o.Bootstrap {
			met[a.Node] = true
		}
	}
	if made && n.o.Bootstrap > 0 {
		n.o.Logger.Info("the cluster is there, so Bootstrap is ignored")
	}
	return made || n.o.Bootstrap > 0 && len(met) >= n.o.Bootstrap, nil
}

// askAll says hello to all that there is a connection to.
func (n *Node) askAll(b bus.Bus, names map[string]bool) (all []welcome) {
	text, err := json.Marshal(hello{n.o.Node})
	if err != nil {
		panic("bug: a hello is not JSON: " + err.Error())
	}
	for name := range names {
		ctx, cancel := context.WithTimeout(context.Background(), helloWithin)
		data, err := b.Request(ctx, name, helloSubject, text)
		cancel()
		var a welcome
		if err == nil && json.Unmarshal(data, &a) == nil {
			all = append(all, a)
		}
	}
	return all
}

// answerHello answers a node that is new.
func (n *Node) answerHello(m bus.Message) {
	var h hello
	if m.Reply == nil || len(m.Data) > maxHelloAsked || json.Unmarshal(m.Data, &h) != nil ||
		!name.MatchString(h.Node) {
		return
	}
	if n.hellos.Add(1) > maxHellos { // the node asks again
		n.hellos.Add(-1)
		return
	}
	go func() { // it may ask the cluster, for helloWithin / 2
		defer n.hellos.Add(-1)
		text, err := json.Marshal(welcome{
			Node: n.o.Node, Made: len(n.identity.get().Cluster) > 0, Known: n.known(h.Node),
			Bootstrap: n.o.Bootstrap,
		})
		if err == nil {
			m.Reply(text)
		}
	}()
}

// known is the id under which a node is known, as far as can be said now.
func (n *Node) known(node string) string {
	if id := n.identity.known(node); id != "" {
		return id
	}
	server := n.hosted.Load()
	if server == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), helloWithin/2)
	defer cancel()
	id, _ := server.Get(ctx, metaStream, nodeSubject+node)
	return string(id)
}

// register has the cluster know this node by its name, once for ever.
func (n *Node) register(ctx context.Context) error {
	id := n.identity.get().ID
	known, err := n.server.Get(ctx, metaStream, nodeSubject+n.o.Node)
	switch {
	case errors.Is(err, embed.ErrNoValue):
		return n.server.Put(ctx, nodeSubject+n.o.Node, []byte(id))
	case err != nil:
		return err
	case string(known) != id:
		return &refusedError{fmt.Sprintf("%v: start under a name that no node has had", ErrKnownNode)}
	}
	return nil
}
