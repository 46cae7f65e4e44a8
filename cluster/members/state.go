package members

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// State is which nodes there are and where the logs are, as the servers tell it at about one
// instant.
type State struct {
	Leader string // the node that decides where logs are; "": there is none
	Nodes  []Node // by name
	Logs   []Log  // by name
	// Copies is how many copies each log is to have.
	Copies int
}

// Node is a member of the cluster.
type Node struct {
	Name    string
	InReach bool
	Current bool // it knows where all logs are
}

// Log is a replicated log.
type Log struct {
	Name   string
	Leader string // the node whose copy leads; "": there is none
	Moving bool   // its copies are being moved
	Copies []Copy // the leader's, too
}

// Copy is what a node has of a log.
type Copy struct {
	Node    string
	Current bool
	InReach bool
	Lag     uint64 // messages that it lacks
	Missing uint64 // messages that it lost
	// Unusable says that the node cannot own what the log is of.
	Unusable bool
}

// has reports whether a node has a copy.
func (l *Log) has(node string) bool {
	return slices.ContainsFunc(l.Copies, func(c Copy) bool { return c.Node == node })
}

// on returns how many copies a node has.
func (s *State) on(node string) (n int) {
	for i := range s.Logs {
		if s.Logs[i].has(node) {
			n++
		}
	}
	return n
}

// node returns a member; nil: there is none of the name.
func (s *State) node(name string) *Node {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Nodes[i]
}

// names are those of the members.
func (s *State) names() string {
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

// unsettled says why no copy may be moved now (M1); "": it may. What is wrong about copies on the
// node except is not looked at.
func (s *State) unsettled(except string) string {
	if s.Leader == "" {
		return "no node leads the cluster: a majority of the members is not in reach. " +
			"Bring nodes back first"
	}
	reached := 0
	for _, n := range s.Nodes {
		if n.InReach {
			reached++
		}
	}
	if 2*reached <= len(s.Nodes) {
		return fmt.Sprintf("%d of %d members are in reach, which is no majority. "+
			"Bring nodes back first", reached, len(s.Nodes))
	}
	for i := range s.Logs {
		if why := s.Logs[i].unsettled(except, s.Copies); why != "" {
			return why
		}
	}
	return ""
}

func (l *Log) unsettled(except string, copies int) string {
	switch {
	case l.Leader == "":
		return fmt.Sprintf("%s has no leader now. Wait until it has one", l.Name)
	case l.Moving:
		return fmt.Sprintf("copies of %s are being moved. Wait until they are", l.Name)
	case len(l.Copies) < copies:
		return fmt.Sprintf("%s has %d copies of %d. Wait until the servers have made the others",
			l.Name, len(l.Copies), copies)
	}
	for _, c := range l.Copies {
		switch {
		case c.Node == except:
		case !c.InReach:
			return fmt.Sprintf("the copy of %s on %s is not in reach. Bring the node back, or "+
				"replace it", l.Name, c.Node)
		case c.Missing > 0:
			return fmt.Sprintf("the copy of %s on %s was damaged, it lacks %d messages. Wait until a "+
				"checkpoint has made it whole, or stop the node and replace it", l.Name, c.Node, c.Missing)
		case !c.Current:
			return fmt.Sprintf("the copy of %s on %s is not current, it lacks %d messages. "+
				"Wait until it has them", l.Name, c.Node, c.Lag)
		}
	}
	return ""
}

// mayLeave says why a node may not leave; "": it may.
func (s *State) mayLeave(name string) string {
	n := s.node(name)
	switch {
	case n == nil:
		return fmt.Sprintf("%s is no member. Members are %s", name, s.names())
	case !n.InReach:
		return fmt.Sprintf("%s is not in reach, so it cannot give its copies away. Start it again, "+
			"or start another node and replace %s with it", name, name)
	}
	if why := s.tooFewWithout(name); why != "" {
		return why
	}
	return s.unsettled("")
}

// mayReplace says why a node may not be replaced by another; "": it may.
func (s *State) mayReplace(old, by string) string {
	gone, new := s.node(old), s.node(by)
	switch {
	case old == by:
		return "a node cannot take its own place: start one under a new name"
	case gone == nil:
		return fmt.Sprintf("%s is no member. Members are %s", old, s.names())
	case gone.InReach:
		return fmt.Sprintf("%s is in reach. Let it leave, or stop it and wait until it is not", old)
	case new == nil:
		return fmt.Sprintf("%s is no member. Start it with --cluster-peers, and wait until it is "+
			"listed. Members are %s", by, s.names())
	case !new.InReach:
		return fmt.Sprintf("%s is not in reach. Wait until it is", by)
	case !new.Current:
		return fmt.Sprintf("%s does not know yet where all logs are. Wait until it does", by)
	}
	if why := s.tooFewWithout(old); why != "" {
		return why
	}
	return s.unsettled(old)
}

// tooFewWithout says why the cluster cannot be without a node (M2); "": it can.
func (s *State) tooFewWithout(name string) string {
	left := 0
	for _, n := range s.Nodes {
		if n.InReach && n.Name != name {
			left++
		}
	}
	if left >= s.Copies {
		return ""
	}
	return fmt.Sprintf("without %s there are %d nodes in reach, and each log has %d copies on as "+
		"many nodes. Start another node first", name, left, s.Copies)
}

// mayRemove says why a node that gave its copies away may not be removed (M2); "": it may.
func (s *State) mayRemove(name string) string {
	for i := range s.Logs {
		if s.Logs[i].has(name) {
			return fmt.Sprintf("%s still has a copy of %s", name, s.Logs[i].Name)
		}
	}
	if s.Leader == name {
		return fmt.Sprintf("%s leads the cluster", name)
	}
	return s.unsettled(name)
}

// toBalance returns the log of which a copy is to go from one node to another, so that no node has
// two more than another; ok is false when all is even, or when this is not the time for it.
func (s *State) toBalance() (log, from string, ok bool) {
	if s.unsettled("") != "" || len(s.Nodes) == 0 {
		return "", "", false
	}
	if slices.ContainsFunc(s.Nodes, func(n Node) bool { return !n.InReach || !n.Current }) {
		return "", "", false
	}
	byCopies := func(a, b Node) int {
		return cmp.Or(cmp.Compare(s.on(a.Name), s.on(b.Name)), cmp.Compare(a.Name, b.Name))
	}
	few, many := slices.MinFunc(s.Nodes, byCopies), slices.MaxFunc(s.Nodes, byCopies)
	if s.on(many.Name) < s.on(few.Name)+2 {
		return "", "", false
	}
	for pass := range 2 { // a copy that leads moves with a hand-over: the others first
		for i := range s.Logs {
			l := &s.Logs[i]
			if l.has(many.Name) && !l.has(few.Name) && (pass > 0 || l.Leader != many.Name) {
				return l.Name, many.Name, true
			}
		}
	}
	return "", "", false
}

// Surplus returns a log that a node leads and should hand to another one, which has a current copy
// that it can use, and leads fewer: where nodes lead more than their share, after failures. ok is
// false when there is none, or when this is not the time for it.
func (s *State) Surplus(node string) (log, to string, ok bool) {
	if len(s.Nodes) == 0 || s.unsettled("") != "" {
		return "", "", false
	}
	leads := make(map[string]int)
	reached := 0
	for _, n := range s.Nodes {
		if n.InReach {
			reached++
		}
	}
	for i := range s.Logs {
		leads[s.Logs[i].Leader]++
	}
	share := (len(s.Logs) + max(reached, 1) - 1) / max(reached, 1)
	if leads[node] <= share {
		return "", "", false
	}
	fewest := share
	for i := range s.Logs {
		l := &s.Logs[i]
		if l.Leader != node {
			continue
		}
		for _, c := range l.Copies {
			if n := leads[c.Node]; c.Node != node && !c.Unusable && n < fewest {
				log, to, ok, fewest = l.Name, c.Node, true, n
			}
		}
	}
	return log, to, ok
}
