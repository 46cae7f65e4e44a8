package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"rollcall/cluster/embed"
	"rollcall/cluster/members"
	"rollcall/cluster/transfer"
	"rollcall/jslog"
	"rollcall/wire"
)

// ErrRemoved says that the node's log server has stopped: the node was removed from the cluster, or
// its disk has failed.
var ErrRemoved = errors.New("the node's logs were switched off: it was removed from the cluster, " +
	"or its disk has failed; \"rollcall cluster status\" of another node says which")

// deedsStream is the log in which package members writes what it does.
const deedsStream = "DEEDS"

// operator does what an operator asks of the cluster, on the node that was asked, and keeps copies
// and owners spread evenly. Any goroutine may use it.
type operator struct {
	n        *Node
	members  *members.Members
	transfer *transfer.Transfer
	routes   http.ServeMux
	made     atomic.Bool // the log of deeds is there
}

// newOperator makes the operator of a node whose server runs and whose bus does not yet.
func newOperator(n *Node) *operator {
	o := &operator{n: n}
	o.transfer = transfer.New(n.bus, owners{n.holdings, n.directory})
	o.members = members.New(members.Options{
		Node: n.o.Node, Logger: n.o.Logger, Journal: o.journal, Moves: n.figures.move,
		Servers: &members.Servers{
			App: n.server.Conn(), System: n.server.System, Copies: n.o.Replicas,
			Reach: n.directory.reaches, Missing: n.directory.missing,
			Unusable: n.directory.unusable, Named: n.identity.named, PeerID: embed.PeerID,
		},
	})
	o.routes.HandleFunc("GET /clusterz", func(w http.ResponseWriter, r *http.Request) {
		n.Status(r.Context()).answer(w)
	})
	o.routes.HandleFunc("GET /clusterz/deed", o.deed)
	o.routes.HandleFunc("POST /clusterz/balance", o.setBalance)
	o.routes.HandleFunc("POST /clusterz/leave", o.leave)
	o.routes.HandleFunc("POST /clusterz/replace", o.replace)
	o.routes.HandleFunc("GET /clusterz/devices", o.devices)
	o.routes.HandleFunc("GET /clusterz/export", o.export)
	o.routes.HandleFunc("POST /clusterz/import", o.take)
	return o
}

// journal returns the log of deeds, which the first one makes.
func (o *operator) journal(ctx context.Context) (members.Journal, error) {
	if !o.made.Load() {
		if err := o.n.server.Create(ctx, o.n.streamConfig(deedsStream, "")); err != nil {
			return nil, err
		}
		o.made.Store(true)
	}
	return jslog.NATS(o.n.server.Conn(), deedsStream), nil
}

// lastDeed is what was done last, or is being done; the zero Deed: nothing was.
func (o *operator) lastDeed(ctx context.Context) (d members.Deed, err error) {
	if !o.made.Load() {
		switch _, err := o.n.server.Stream(ctx, deedsStream); {
		case errors.Is(err, embed.ErrNoStream):
			return d, nil
		case err != nil:
			return d, err
		}
	}
	d, _, err = o.members.Last(ctx)
	return d, err
}

const (
	// evenEvery is how often a node looks whether it owns more than its share, and the leader of
	// the cluster whether a node has more copies than another.
	evenEvery = 5 * time.Second
	// overFor is for how many looks a node owns too much before it gives one up: after failures
	// owners come and go.
	overFor = 6
	// restPart is how much longer than a move the rest after it is, so that copying takes a small
	// part of the disks' and the network's time.
	restPart = 9
)

// run hands partitions over while the node owns more than its share, and notices when the logs are
// switched off, until stop is closed.
func (o *operator) run(stop <-chan struct{}) {
	over := 0
	for wait(stop, evenEvery) {
		o.n.damage.look(time.Now())
		o.learnBalance()
		switch {
		case !o.n.server.KeepsLogs():
			o.n.fail(ErrRemoved)
			return
		case !o.quiet() || !o.owns():
			over = 0
		default:
			if over++; over > overFor {
				o.giveOne()
			}
		}
	}
}

// learnBalance asks whether copies and owners are to be spread evenly.
func (o *operator) learnBalance() {
	ctx, cancel := context.WithTimeout(context.Background(), evenEvery)
	defer cancel()
	o.n.balance.learn(ctx, o.n.server)
}

// balance moves copies while this node leads the cluster, until stop is closed.
func (o *operator) balance(stop <-chan struct{}) {
	rest := evenEvery
	for wait(stop, rest) {
		if rest = evenEvery; !o.quiet() || !o.n.server.LeadsMeta() {
			continue
		}
		began := time.Now()
		o.moveOne()
		rest = max(rest, restPart*time.Since(began))
	}
}

// wait returns false when stop is closed.
func wait(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(d):
		return true
	}
}

// quiet reports whether this is a time for moving things: not while an operator has switched it
// off, and not while a node is about to stop, as in a rolling upgrade, or was lost.
func (o *operator) quiet() bool {
	if o.n.phase.Load() != serving || o.n.isolated.Load() || o.n.balance.get() != balanceOn {
		return false
	}
	for _, p := range o.n.directory.heard() {
		if p.Draining || !o.n.directory.reaches(p.Node) {
			return false
		}
	}
	return true
}

// owns reports whether this node owns more partitions than its share.
func (o *operator) owns() bool {
	nodes := max(o.n.directory.inReach(), 1)
	share := (o.n.o.Partitions + nodes - 1) / nodes
	return len(o.n.holdings.all()) > share
}

// giveOne hands one partition to another node.
func (o *operator) giveOne() {
	ctx, cancel := context.WithTimeout(context.Background(), evenEvery)
	defer cancel()
	state, err := o.members.Look(ctx)
	if err != nil {
		return
	}
	log, to, ok := state.Surplus(o.n.o.Node)
	if !ok {
		return
	}
	handed := o.n.figures.move(moveOwner)
	err = o.members.HandOver(ctx, log, to)
	handed(err)
	if err != nil {
		o.n.o.Logger.Info("a partition was not handed over", "log", log, "to", to, "error", err)
		return
	}
	o.n.o.Logger.Info("handed a partition over: this node owns more than its share",
		"log", log, "to", to)
}

// moveOne moves one copy, if there is one to move.
func (o *operator) moveOne() {
	ctx, cancel := context.WithTimeout(context.Background(), evenEvery)
	defer cancel()
	moved, err := o.members.Balance(ctx)
	if err != nil {
		o.n.o.Logger.Debug("no copy was moved", "error", err)
	} else if moved {
		o.n.o.Logger.Info("moved a copy of a log to a node with fewer")
	}
}

func (o *operator) close() { o.members.Close() }

// maxOperatorSeconds bounds how long a request of an operator may take.
const maxOperatorSeconds = 8

func operatorContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), maxOperatorSeconds*time.Second)
}

func (o *operator) leave(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	answerDeed(w, o.members.Leave(ctx, r.URL.Query().Get("node")))
}

func (o *operator) replace(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	q := r.URL.Query()
	answerDeed(w, o.members.Replace(ctx, q.Get("node"), q.Get("by")))
}

// answerDeed says that something has begun, or why not.
func answerDeed(w http.ResponseWriter, err error) {
	var refused *members.RefusedError
	switch {
	case err == nil:
		answerJSON(w, http.StatusOK, map[string]bool{"begun": true})
	case errors.As(err, &refused):
		answerError(w, http.StatusConflict, "refused", err)
	default:
		answerError(w, http.StatusServiceUnavailable, wire.CodeUnavailable, err)
	}
}

// deed answers what was done last, or is being done.
func (o *operator) deed(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	d, err := o.lastDeed(ctx)
	if err != nil {
		answerError(w, http.StatusServiceUnavailable, wire.CodeUnavailable, err)
		return
	}
	answerJSON(w, http.StatusOK, d)
}

// devices answers how many devices each partition has.
func (o *operator) devices(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	counts := make([]int, o.n.o.Partitions)
	for p := range counts {
		var err error
		if counts[p], err = o.transfer.Devices(ctx, p); err != nil {
			answerTransfer(w, p, err)
			return
		}
	}
	answerJSON(w, http.StatusOK, map[string][]int{"devices": counts})
}

// export answers with a page of a partition.
func (o *operator) export(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	p, ok := o.partition(w, r)
	if !ok {
		return
	}
	after, err := hex.DecodeString(r.URL.Query().Get("after"))
	if err != nil {
		answerError(w, http.StatusBadRequest, wire.CodeInvalid, err)
		return
	}
	page, err := o.transfer.Export(ctx, p, after)
	if err != nil {
		answerTransfer(w, p, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(page.Append(nil))
}

// take takes the devices of a page in.
func (o *operator) take(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	p, ok := o.partition(w, r)
	if !ok {
		return
	}
	page, err := io.ReadAll(io.LimitReader(r.Body, transfer.MaxPageBytes+1024))
	if err != nil {
		answerError(w, http.StatusBadRequest, wire.CodeInvalid, err)
		return
	}
	taken, err := o.transfer.Import(ctx, p, page)
	if err != nil {
		answerTransfer(w, p, err)
		return
	}
	answerJSON(w, http.StatusOK, map[string]int{"taken": taken})
}

// partition reads the number of a partition.
func (o *operator) partition(w http.ResponseWriter, r *http.Request) (p int, ok bool) {
	p, err := strconv.Atoi(r.URL.Query().Get("partition"))
	if err != nil || p < 0 || p >= o.n.o.Partitions {
		answerError(w, http.StatusBadRequest, wire.CodeInvalid,
			fmt.Errorf("partition is 0 to %d", o.n.o.Partitions-1))
		return 0, false
	}
	return p, true
}

// answerTransfer says why a partition did not give or take devices: 503 when it may work later.
func answerTransfer(w http.ResponseWriter, p int, err error) {
	err = fmt.Errorf("partition %d: %w", p, err)
	if errors.Is(err, transfer.ErrNoOwner) {
		answerError(w, http.StatusServiceUnavailable, wire.CodeUnavailable, err)
		return
	}
	answerError(w, http.StatusConflict, "refused", err)
}

func answerError(w http.ResponseWriter, status int, code string, err error) {
	w.Header().Set("Content-Type", wire.JSONType)
	w.WriteHeader(status)
	_, _ = w.Write(wire.AppendError(nil, code, err.Error()))
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("bug: " + err.Error())
	}
	w.Header().Set("Content-Type", wire.JSONType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
