package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"rollcall/cluster/embed"
	"rollcall/wire"
)

// balanceSubject is where the cluster keeps whether copies and owners are spread evenly by
// themselves: on, as where there is no value, or off.
const balanceSubject = "meta.balance"

const (
	balanceOn  = "on"
	balanceOff = "off"
)

// balance is what this node knows of it. Any goroutine may use it.
type balance struct{ is atomic.Pointer[string] }

// get returns balanceOn or balanceOff; "": it is not known yet.
func (b *balance) get() string {
	if is := b.is.Load(); is != nil {
		return *is
	}
	return ""
}

// learn asks the cluster.
func (b *balance) learn(ctx context.Context, server *embed.Server) {
	value, err := server.Get(ctx, metaStream, balanceSubject)
	is := string(value)
	switch {
	case errors.Is(err, embed.ErrNoValue):
		is = balanceOn
	case err != nil: // what was known stays
		return
	}
	b.is.Store(&is)
}

// setBalance switches it, for all nodes: each looks again within evenEvery.
func (o *operator) setBalance(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := operatorContext(r)
	defer cancel()
	is := r.URL.Query().Get("is")
	if is != balanceOn && is != balanceOff {
		answerError(w, http.StatusBadRequest, wire.CodeInvalid, errors.New("is: on or off"))
		return
	}
	if err := o.n.server.Set(ctx, balanceSubject, []byte(is)); err != nil {
		answerError(w, http.StatusServiceUnavailable, wire.CodeUnavailable, fmt.Errorf(
			"the cluster does not answer: a majority of the nodes may not be in reach. Ask again, "+
				"and look at the status: it may be %s later all the same: %w", is, err))
		return
	}
	o.n.balance.is.Store(&is)
	o.n.o.Logger.Info("the spreading of copies and owners was switched", "is", is)
	answerJSON(w, http.StatusOK, map[string]string{"balance": is})
}
