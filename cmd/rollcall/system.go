package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// servingSystems are those where a data directory can be locked, so that one process works on it,
// and synced, so that a 204 is a promise. On others the binary has the commands that need neither.
var servingSystems = []string{"linux", "darwin", "freebsd"}

// needsServingSystem returns an error where a command that needs a server's data directory does not
// run.
func needsServingSystem(command string) error { return serves(command, runtime.GOOS) }

func serves(command, system string) error {
	if slices.Contains(servingSystems, system) {
		return nil
	}
	return fmt.Errorf("rollcall %s runs on %s, not on %s: "+
		"here there are load, token, inspect and version",
		command, strings.Join(servingSystems, ", "), system)
}
