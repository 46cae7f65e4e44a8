package cluster

import "context"

// Status is what this node knows of the cluster.
func (n *Node) Status(context.Context) *Status { return &Status{Node: n.o.Node} }
