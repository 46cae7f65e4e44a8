package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"

	"rollcall/cluster"
	"rollcall/engine"
	"rollcall/loadgen"
	"rollcall/wal"
)

// TestAdvice is added to what packages report, and keeps the error.
func TestAdvice(t *testing.T) {
	for sentinel, want := range map[error]string{
		engine.ErrLogShort:       "restore the data directory from a backup",
		engine.ErrOverMaxDevices: "or let --forget-after forget devices sooner",
		wal.ErrLocked:            "give --data-dir another directory",
	} {
		got := advise(fmt.Errorf("engine: recovery: %w", sentinel))
		if !errors.Is(got, sentinel) || !strings.HasSuffix(got.Error(), want) {
			t.Errorf("%v", got)
		}
	}
	other := errors.New("other")
	if got := advise(other); got != other {
		t.Errorf("%v", got)
	}
	if got := advise(nil); got != nil {
		t.Errorf("%v", got)
	}
}

// Errors are logged with the advice; nothing else in the log changes.
func TestAdviceIsLogged(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out strings.Builder
		log := serveCmd{LogLevel: "info", LogFormat: format}.logger(&out)
		log.Warn("refused", "error", engine.ErrTooManyDevices, "devices", 3, "none", error(nil))
		for _, want := range []string{"table may hold; raise the memory limit, or --max-devices", "WARN"} {
			if n := strings.Count(out.String(), want); n != 1 {
				t.Errorf("%s: %d times %q: %s", format, n, want, &out)
			}
		}
	}
}

// TestWrongOptionsNameTheirFlags, each of them.
func TestWrongOptionsNameTheirFlags(t *testing.T) {
	err := advise(errors.Join(
		engine.Options{RecoveryGrace: -1, CheckpointEvery: -1}.Check(),
		loadgen.Options{Target: "http://x:1", KneeP99: 1, SilentShare: 2, IngestToken: "x"}.Check(),
		errors.New("other: option X is wrong"),
	))
	for _, want := range []string{"(--recovery-grace)", "(--checkpoint-interval)",
		"(--silent-share)", "X is wrong"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "X is wrong (") {
		t.Errorf("%v: a flag that there is not", err)
	}
}

// TestAdviceToEach of several errors that are reported together.
func TestAdviceToEach(t *testing.T) {
	err := advise(errors.Join(
		fmt.Errorf("--cluster-peers: n2: %w", cluster.ErrKey),
		cluster.Options{Node: "a b"}.Check(),
		fmt.Errorf("cluster: option Listen: %w", syscall.EADDRINUSE),
	))
	for _, want := range []string{"is shown changes with a restart", "(--cluster-node)",
		"another address (--cluster-listen)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %s", err, want)
		}
	}
}

func TestAdviceNamesFlagsThatExist(t *testing.T) {
	parser, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, command := range parser.Model.Children {
		for _, f := range command.Flags {
			known[f.Name] = true
		}
	}
	for option, flag := range flags {
		if !known[flag] {
			t.Errorf("%s: there is no flag --%s", option, flag)
		}
	}
}
