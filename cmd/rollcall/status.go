package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"rollcall/cluster"
)

// clusterCmd are the commands for operators of a cluster.
type clusterCmd struct {
	Dev     clusterDevCmd     `cmd:"" help:"Run three nodes on this machine with throw-away secrets, and print what to paste."`
	Status  clusterStatusCmd  `cmd:"" help:"Show the nodes of a cluster, what they own, and what is wrong."`
	Leave   clusterLeaveCmd   `cmd:"" help:"Have a node give its copies away and be no member any more."`
	Replace clusterReplaceCmd `cmd:"" help:"Have another node take the place of one that is gone."`
	Balance clusterBalanceCmd `cmd:"" help:"Have copies and owners spread evenly by themselves, or not."`
	Import  clusterImportCmd  `cmd:"" help:"Bring the devices of a server that was alone into an empty cluster."`
}

type clusterStatusCmd struct {
	operator
	JSON       bool `name:"json" help:"Print the node's answer as it is."`
	Partitions bool `help:"Show each partition, too: its owner and its copies."`
}

// Help is what `rollcall cluster status --help` says beyond the flags.
func (clusterStatusCmd) Help() string {
	return `What one node knows: ask two of them when in doubt. A copy that is not current lacks something that
was acknowledged; until it has it, the loss of other copies may be the loss of that.

Exit status 1: something is wrong. The last lines say what.`
}

// Run asks a node and prints what it knows.
func (c clusterStatusCmd) Run() error {
	var answer json.RawMessage
	if err := c.get(clusterPath, &answer); err != nil {
		return err
	}
	var status cluster.Status
	if err := json.Unmarshal(answer, &status); err != nil {
		return fmt.Errorf("%s: %w", c.Admin, err)
	}
	problems := status.Problems()
	if c.JSON {
		fmt.Println(string(answer))
	} else if err := printStatus(os.Stdout, &status, c.Partitions); err != nil {
		return err
	}
	if len(problems) > 0 {
		return exitCode{1, "something is wrong"}
	}
	return nil
}

// clusterPath is the admin listener's route.
const clusterPath = "/clusterz"

// printStatus prints a table of the nodes, one of the partitions if asked for, and the problems.
func printStatus(w io.Writer, s *cluster.Status, partitions bool) error {
	leader := s.Leader
	if leader == "" {
		leader = "no node"
	}
	fmt.Fprintf(w, "cluster %s as %s knows it: %s, %d partitions in %d copies, led by %s\n\n",
		s.Cluster, s.Node, counted(len(s.Nodes), "node"), len(s.Partitions), s.Replicas, leader)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tVERSION\tSTATE\tCLOCK\tOWNS\tCOPIES\tNOT CURRENT\tLACKS")
	for i := range s.Nodes {
		n := &s.Nodes[i]
		copies, behind, lag := s.Copies(n.Name)
		fmt.Fprintf(table, "%s\t%s\t%s\t%+d ms\t%d\t%d\t%d\t%d\n", n.Name, orDash(n.Version),
			stateOf(s, n), n.SkewMS, s.Owned(n.Name), copies, behind, lag)
	}
	if partitions {
		fmt.Fprintln(table, "\nPARTITION\tOWNER\tCLAIM\tCOPIES")
		for i := range s.Partitions {
			p := &s.Partitions[i]
			fmt.Fprintf(table, "%d\t%s\t%d\t%s\n", p.Partition, orDash(p.Owner), p.Epoch,
				orDash(copiesOf(p)))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	printDeed(w, s)
	problems := s.Problems()
	if len(problems) == 0 {
		_, err := fmt.Fprintln(w, "\nAll is well.")
		return err
	}
	fmt.Fprintln(w)
	for _, problem := range problems {
		if _, err := fmt.Fprintln(w, "wrong:", problem); err != nil {
			return err
		}
	}
	return nil
}

// printDeed says what is being done to the cluster, and what is not done by itself.
func printDeed(w io.Writer, s *cluster.Status) {
	if s.Balance == "off" {
		fmt.Fprintln(w, "\nCopies and owners stay where they are, until \"rollcall cluster balance on\".")
	}
	d := s.Deed
	if d == nil {
		return
	}
	lasted := func(since int64) time.Duration {
		return (time.Duration(s.AtMS-since) * time.Millisecond).Round(time.Second)
	}
	if d.Failed != "" {
		fmt.Fprintf(w, "\n%s has failed, %v ago, on %s: %s\n", d, lasted(d.AtMS), d.Runner, d.Failed)
		return
	}
	fmt.Fprintf(w, "\n%s is under way on %s for %v", d, d.Runner, lasted(d.BeganMS))
	if all := d.Moved + d.Left; all > 0 {
		fmt.Fprintf(w, ", %d of %d copies moved", d.Moved, all)
	}
	fmt.Fprintf(w, ": %s\n", d.Step)
}

// stateOf says in a word how a node is.
func stateOf(s *cluster.Status, n *cluster.NodeStatus) string {
	switch {
	case n.Name == s.Node && s.NotReady != "":
		return "not ready"
	case n.Name == s.Node && !n.Draining:
		return "ready"
	case !n.InReach && n.HeardMS < 0:
		return "never seen"
	case !n.InReach:
		return fmt.Sprintf("gone for %d s", n.HeardMS/1000)
	case n.Draining:
		return "draining"
	}
	return "in reach"
}

// copiesOf names the nodes that have a copy, with what is wrong about it.
func copiesOf(p *cluster.PartitionStatus) (text string) {
	for i, r := range p.Replicas {
		if i > 0 {
			text += " "
		}
		text += r.Node
		switch {
		case r.Offline:
			text += "(offline)"
		case r.Missing > 0:
			text += fmt.Sprintf("(damaged, lacks %d)", r.Lag)
		case !r.Current:
			text += fmt.Sprintf("(lacks %d)", r.Lag)
		}
	}
	return text
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
