package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rollcall/cluster"
)

type clusterDevCmd struct {
	FirstPort int    `default:"8787" placeholder:"PORT" help:"The nodes listen on this port, on 10 above it and on 20 above it, for operators and for each other on the next two (${default})."`
	LogLevel  string `default:"warn" enum:"debug,info,warn,error" help:"Of the nodes' lines on standard error: debug, info, warn or error (${default})."`
}

// Help is what `rollcall cluster dev --help` says beyond the flags.
func (clusterDevCmd) Help() string {
	return `It prints what to paste, and which process to kill to see that the others go on. A node that ended is
started again after ten seconds. Ctrl-C stops all and removes what they stored.`
}

const (
	devNodes = 3
	// devPartitions are few, so that a small machine makes them fast.
	devPartitions = 12
	// devReady is how long the first start may take.
	devReady = time.Minute
	// devAgain is how long a node that ended is left away.
	devAgain = 10 * time.Second
	// devStop is how long the nodes have to end.
	devStop = 15 * time.Second
)

// devNode is one of the processes. Its owner is the goroutine that runs it.
type devNode struct {
	name                string
	public, admin, peer string // addresses
	flags               []string
	env                 []string
	out                 *lines
	pid                 atomic.Int64 // of the last process; 0: there was none
}

// Run serves until a signal.
func (c clusterDevCmd) Run() error {
	if err := needsServingSystem("cluster dev"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "rollcall-cluster-")
	if err != nil {
		return err
	}
	err = c.run(ctx, dir, os.Stdout, os.Stderr)
	return errors.Join(err, os.RemoveAll(dir))
}

// run starts the nodes, says on out what to do with them, and ends them when ctx is done.
func (c clusterDevCmd) run(ctx context.Context, dir string, out, log io.Writer) error {
	ingest, signing := throwAwaySecret(), throwAwaySecret()
	env := append(os.Environ(), ingestTokenEnv+"="+ingest, signingKeyEnv+"="+signing)
	nodes := c.nodes(dir, env, log)
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	failed := make(chan error, len(nodes))
	for _, n := range nodes {
		all.Go(func() {
			if err := n.keep(ctx); err != nil {
				failed <- err
			}
		})
	}
	defer all.Wait()
	defer stop()
	ready := make(chan error, 1)
	go func() { ready <- awaitDev(ctx, nodes) }()
	select {
	case err := <-failed:
		return err
	case err := <-ready:
		if err != nil {
			return err
		}
	}
	if err := c.explain(out, nodes, ingest, signing); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// nodes lays them out; nothing is started.
func (c clusterDevCmd) nodes(dir string, env []string, log io.Writer) []*devNode {
	var nodes []*devNode
	var peers []string
	for i := range devNodes {
		port := func(n int) string {
			return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.FirstPort+10*i+n))
		}
		n := &devNode{name: fmt.Sprint("n", i+1), public: port(0), admin: port(1), peer: port(2),
			env: env}
		n.out = &lines{name: n.name, to: log}
		nodes, peers = append(nodes, n), append(peers, n.peer)
	}
	for _, n := range nodes {
		n.flags = []string{"serve", "--dev", "--log-level=" + c.LogLevel,
			"--listen=" + n.public, "--admin-listen=" + n.admin,
			"--data-dir=" + filepath.Join(dir, n.name),
			"--cluster-node=" + n.name, "--cluster-name=dev", "--cluster-listen=" + n.peer,
			"--cluster-peers=" + strings.Join(peers, ","), fmt.Sprint("--cluster-bootstrap=", devNodes),
			fmt.Sprint("--cluster-partitions=", devPartitions), "--cluster-fast-failover"}
	}
	return nodes
}

// keep runs the node, again when it has ended, until ctx is done. An error is that it could not be
// started, or that it refuses to.
func (n *devNode) keep(ctx context.Context) error {
	for {
		began := time.Now()
		err := n.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var ended *exec.ExitError
		if !errors.As(err, &ended) && err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		if err != nil && ended.Exited() && time.Since(began) < devAgain {
			return fmt.Errorf("%s does not start (%w): its lines say why", n.name, err)
		}
		n.out.say("has ended (%v), and is started again in %v", err, devAgain)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(devAgain):
		}
	}
}

// run is one life of the process.
func (n *devNode) run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, n.flags...)
	cmd.Env, cmd.Stderr = n.env, n.out // its standard output has lines for one server
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = devStop
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	n.pid.Store(int64(cmd.Process.Pid))
	return cmd.Wait()
}

// awaitDev returns when each node is ready and none knows of a problem.
func awaitDev(ctx context.Context, nodes []*devNode) error {
	ctx, cancel := context.WithTimeout(ctx, devReady)
	defer cancel()
	for _, n := range nodes {
		for !n.well(ctx) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready after %v: see http://%s/readyz", n.name, devReady,
					n.admin)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func (n *devNode) well(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	status, err := n.status()
	return err == nil && resp.StatusCode == http.StatusOK && len(status.Problems()) == 0
}

func (n *devNode) status() (s cluster.Status, err error) {
	err = operator{Admin: "http://" + n.admin}.get(clusterPath, &s)
	return s, err
}

// explain prints what to paste.
func (c clusterDevCmd) explain(
	w io.Writer, nodes []*devNode, ingest, signing string,
) error {
	status, err := nodes[0].status()
	if err != nil {
		return err
	}
	token, err := streamToken(signing, devUser, devDevice, 24*time.Hour)
	if err != nil {
		return err
	}
	of := status.Of(devUser)
	if of == nil {
		return errors.New("the nodes have not made a cluster")
	}
	victim, follow := 0, 1
	for i, n := range nodes {
		if n.name == of.Owner {
			victim, follow = i, (i+1)%len(nodes)
		}
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "\nThree nodes of a cluster are running with throw-away secrets:\n\n")
	for _, n := range nodes {
		fmt.Fprintf(b, "  %s  process %d  http://%s/?user=%s#devices\n", n.name, n.pid.Load(), n.admin,
			devUser)
	}
	fmt.Fprintf(b, "\nFollow a user at one of them, in a second terminal:\n\n%s\n",
		streamLine("curl", "http://"+nodes[follow].public, token))
	fmt.Fprintf(b, "\nand send a heartbeat to any, in a third one, as often as you like:\n")
	for _, n := range nodes {
		fmt.Fprintf(b, "\n# %s\n%s\n", n.name, heartbeatLine("curl", "http://"+n.public, ingest))
	}
	fmt.Fprintf(b, `
The user is of partition %d of %d, which %s owns. Kill it, and send heartbeats to the others: they are
answered 503 for a second at most, and the stream goes on. After %v it is started again.

kill -9 %d

Who owns what, at any time:

%s cluster status --admin http://%s

Ctrl-C stops all of them and removes what they stored.

`, of.Partition, len(status.Partitions), nodes[victim].name, devAgain, nodes[victim].pid.Load(),
		os.Args[0], nodes[follow].admin)
	return b.Flush()
}

// lines puts a node's name before each of its lines. Any goroutine may write.
type lines struct {
	name string
	to   io.Writer
	mu   sync.Mutex
	rest []byte // guarded by mu: of a line that is not whole
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := strings.IndexByte(string(l.rest), '\n')
		if i < 0 {
			return len(p), nil
		}
		if _, err := fmt.Fprintf(l.to, "%s | %s\n", l.name, l.rest[:i]); err != nil {
			return 0, err
		}
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) say(format string, args ...any) {
	fmt.Fprintf(l, format+"\n", args...)
}
