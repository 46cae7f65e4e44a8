package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// processBegan is when the process began, as far as it can know itself.
var processBegan = time.Now()

// longestRestart bounds what streams are told about a restart: a start that had to read a long log
// says little about the next one, and the clients of a server that is back sooner would wait.
const longestRestart = time.Minute

// restartTime is what a restart is expected to take after a start that took this long.
func restartTime(start time.Duration) time.Duration { return min(start, longestRestart) }

// atOnce is how long the process may take to end after a second signal.
const atOnce = 500 * time.Millisecond

// stopSignals returns the first SIGTERM or SIGINT, on which the server drains. A second one ends
// the process from a goroutine of its own, whatever the others wait for: the disk, a standard error
// that takes no line. The log stays open, since closing it would wait for the disk; what was
// acknowledged is on it.
func stopSignals() <-chan os.Signal {
	signals, first := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		first <- <-signals
		<-signals
		endAtOnce()
	}()
	return first
}

// endAtOnce ends the process. A thread that is inside a write to a frozen disk cannot end before
// the disk goes on, and until then the kernel keeps the process and every descriptor of it: the
// sockets are shut down here, so that no client waits for an answer of a process that is gone, and
// another one may listen there.
func endAtOnce() {
	go func() {
		time.Sleep(atOnce)
		os.Exit(1)
	}()
	shutSockets()
	fmt.Fprintln(os.Stderr, "rollcall: error: stopped at once by a second signal")
	os.Exit(1)
}
