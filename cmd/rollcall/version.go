package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile from git; a plain `go build` or `go install` falls back on what Go
// recorded.
var version = ""

type versionCmd struct{}

// Run prints one line: what a bug report needs.
func (versionCmd) Run() error {
	fmt.Printf("rollcall %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS,
		runtime.GOARCH)
	return nil
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
