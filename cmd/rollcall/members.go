package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"rollcall/cluster/members"
)

type clusterLeaveCmd struct {
	operator
	Node string `arg:"" help:"The node that is to leave. It has to be in reach, and not the one that is asked."`
}

// Help is what `rollcall cluster leave --help` says beyond the flags.
func (clusterLeaveCmd) Help() string {
	return `The node gives its copies of logs to others, one after the other, and is no member then: its process
ends by itself, and neither its name nor its directory may be used again. Clients notice what they
notice of a restart.

It is refused, and nothing is done, without a majority, while any copy of any log is not current,
and where fewer nodes would be left than each log has copies. The command may be stopped: what has
begun goes on, and GET /clusterz/deed shows it. Where it did not end well, give it again.

Exit status 1: it was refused, or did not end well. The last line says why, and what to do.`
}

// Run sees a node off.
func (c clusterLeaveCmd) Run() error {
	return c.doDeed("/clusterz/leave?node="+url.QueryEscape(c.Node),
		c.Node+" has left: it may be switched off")
}

type clusterReplaceCmd struct {
	operator
	Old string `arg:"" help:"The node that is gone, and will not come back."`
	New string `arg:"" help:"The node that was started in its place, under a new name."`
}

// Help is what `rollcall cluster replace --help` says beyond the flags.
func (clusterReplaceCmd) Help() string {
	return `For a node whose machine or disk is lost. Start another one first, with an empty directory, a new name
and --cluster-peers, and wait until "rollcall cluster status" lists it. The copies that OLD had are
made anew from the others, one after the other, and OLD is no member then.

It is refused, and nothing is done, while OLD is in reach, without a majority, and while any other
copy of any log is not current. The command may be stopped, as that of leave.`
}

// Run replaces a node.
func (c clusterReplaceCmd) Run() error {
	q := url.Values{"node": {c.Old}, "by": {c.New}}
	return c.doDeed("/clusterz/replace?"+q.Encode(), c.Old+" is no member any more")
}

type clusterBalanceCmd struct {
	operator
	Is string `arg:"" enum:"on,off" help:"on, or off."`
}

// Help is what `rollcall cluster balance --help` says beyond the flags.
func (clusterBalanceCmd) Help() string {
	return `A cluster moves copies of logs to nodes that have fewer, and owners to nodes that own fewer, one at a
time. Off: it begins no such move, from five seconds later on, until it is on again; the nodes keep
this over restarts. What is under way is done. A node that stops still hands over what it owns, and
leave and replace still move what they have to.`
}

// Run switches it.
func (c clusterBalanceCmd) Run() error {
	var told struct{ Balance string }
	if err := c.ask(http.MethodPost, "/clusterz/balance?is="+c.Is, &told); err != nil {
		return err
	}
	if told.Balance == "off" {
		fmt.Println("copies and owners stay where they are, until \"rollcall cluster balance on\"")
		return nil
	}
	fmt.Println("copies and owners are spread evenly")
	return nil
}

// deedEvery is how often is asked how far a deed is.
const deedEvery = 500 * time.Millisecond

// doDeed asks for something that takes its time, and says how far it is until it is done.
func (o operator) doDeed(path, done string) error {
	var begun struct{ Begun bool }
	if err := o.ask(http.MethodPost, path, &begun); err != nil {
		return err
	}
	var shown string
	silent := 0
	for ; ; time.Sleep(deedEvery) {
		var d members.Deed
		if err := o.get("/clusterz/deed", &d); err != nil {
			if silent++; silent > 60 {
				return fmt.Errorf("%w; what has begun goes on: GET /clusterz/deed shows it", err)
			}
			continue
		}
		silent = 0
		switch {
		case d.Failed != "":
			return errors.New(d.Failed)
		case d.Done:
			fmt.Println(done)
			return nil
		case d.Step != shown:
			shown = d.Step
			fmt.Println(shown)
		}
	}
}
