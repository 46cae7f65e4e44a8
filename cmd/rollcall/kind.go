package main

import (
	"fmt"
	"os"
	"path/filepath"

	"rollcall/datadir"
	"rollcall/wal"
)

// clusterDir is the part of a data directory that only a node of a cluster has.
const clusterDir = "js"

// refuseCluster returns an error if a data directory is that of a node of a cluster. What cannot be
// read is opened later, and has an error then.
func refuseCluster(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, clusterDir)); err != nil {
		return nil
	}
	return fmt.Errorf("%s is the data directory of a node of a cluster (it has %s): give "+
		"--cluster-node its name, or give --data-dir another directory", dir, clusterDir)
}

// refuseSingle returns an error if a data directory is that of a server that is alone.
func refuseSingle(dir string) error {
	parts, _ := os.ReadDir(dir)
	for _, part := range parts {
		name := part.Name()
		if name == wal.ControlName || name == datadir.CheckpointDir || filepath.Ext(name) == ".wal" {
			return fmt.Errorf("%s is the data directory of a server that is alone (it has %s): "+
				"give the node an empty one; \"rollcall cluster import\" brings the devices into "+
				"the cluster", dir, name)
		}
	}
	return nil
}
