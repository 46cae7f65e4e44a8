// Command rollcall is the presence server and its tools: one binary, one file per command.
package main

import (
	"os"

	"github.com/alecthomas/kong"
)

// cli is the whole command line. Every flag is also an environment variable: --data-dir is
// ROLLCALL_DATA_DIR.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run the server."`
	Token   tokenCmd   `cmd:"" help:"Mint a token that lets a client follow one user's stream."`
	Inspect inspectCmd `cmd:"" help:"Show what a data directory holds, and the first damage in it."`
	Backup  backupCmd  `cmd:"" help:"Copy the data of a server, which may go on running."`
	Cluster clusterCmd `cmd:"" help:"Look after the nodes of a cluster."`
	Load    loadCmd    `cmd:"" help:"Load a server, judge what it did, and report."`
	Version versionCmd `cmd:"" help:"Print the version and exit."`
}

const description = `rollcall answers one question for millions of devices: who is here, right now?

Daemons POST heartbeats, clients follow a user over server-sent events, and a device that falls
silent for its TTL goes offline, on time. To try it: "rollcall serve --dev" prints what to open and
to paste.

Every flag can be set in the environment: --data-dir is ROLLCALL_DATA_DIR. Secrets are never flags,
since ps would show them.`

func main() {
	parser := kong.Must(&cli{},
		kong.Name("rollcall"),
		kong.Description(description),
		kong.DefaultEnvars("ROLLCALL"),
		kong.UsageOnError(),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	ctx, err := parser.Parse(joinNegatives(os.Args[1:]))
	parser.FatalIfErrorf(err)
	ctx.FatalIfErrorf(ctx.Run())
}

// exit ends the process. A wrong command line is 1, like every other reason for which a command
// does not run.
func exit(code int) {
	if code == kongUsage {
		code = 1
	}
	os.Exit(code)
}

// kongUsage is kong's code for a wrong command line.
const kongUsage = 80
