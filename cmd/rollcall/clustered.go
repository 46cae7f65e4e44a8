package main

import "errors"

// openClustered makes a node of a cluster.
func (c serveCmd) openClustered(n *node) (presence, error) {
	return nil, errors.New("this program does not serve as a node of a cluster")
}
