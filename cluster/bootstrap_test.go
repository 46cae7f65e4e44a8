package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// countLog counts the lines of a log that have a text.
type countLog struct {
	text  string
	lines *atomic.Int32
}

func (l countLog) Enabled(context.Context, slog.Level) bool { return true }
func (l countLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l countLog) WithGroup(string) slog.Handler            { return l }

func (l countLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if strings.Contains(a.Value.String(), l.text) {
			l.lines.Add(1)
		}
		return true
	})
	return nil
}

// TestJoinsWhenTheMarkerIsWritten: a node whose disk does not take the marker of its cluster serves
// when it does, and begins once.
func TestJoinsWhenTheMarkerIsWritten(t *testing.T) {
	if testing.Short() {
		t.Skip("two log servers")
	}
	dir := t.TempDir()
	marker := filepath.Join(dir, markerFile)
	text := []byte(`{"format":1,"node":"n1","id":"x"}`)
	inTheWay := marker + ".new"
	err := errors.Join(os.WriteFile(marker, text, 0o600), os.Mkdir(inTheWay, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	peers := []string{testport.Address(t), testport.Address(t)}
	start := func(i int, dir string, logger *slog.Logger) *Node {
		n, err := New(Options{
			Node: fmt.Sprintf("n%d", i+1), Dir: dir, Listen: peers[i], Peers: peers, Bootstrap: 2,
			Replicas: 1, Partitions: 2, Logger: logger,
		})
		if err == nil {
			err = n.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(context.Background()) })
		return n
	}
	n := start(0, dir, slog.New(countLog{inTheWay, &refused}))
	start(1, t.TempDir(), slog.New(slog.DiscardHandler))
	testwait.Until(t, "the marker was refused, and again", func() bool {
		return refused.Load() > 1
	})
	if err := n.Ready(); !errors.Is(err, ErrStarting) {
		t.Errorf("%v", err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the node is ready", func() bool { return n.Ready() == nil })
}
