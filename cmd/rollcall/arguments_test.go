package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

func TestJoinNegatives(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"inspect DIR --devices -1", "inspect DIR --devices=-1"},
		{"inspect --devices -1 DIR", "inspect --devices=-1 DIR"},
		{"token --ttl -.5h", "token --ttl=-.5h"},
		{"inspect --devices=3 -1", "inspect --devices=3 -1"},
		{"serve --data-dir --sync=never", "serve --data-dir --sync=never"},
		{"serve --data-dir -data", "serve --data-dir -data"},
		{"inspect -- --devices -1", "inspect -- --devices -1"},
		{"-1", "-1"},
	} {
		if got := strings.Join(joinNegatives(strings.Fields(c.given)), " "); got != c.want {
			t.Errorf("%s became %s, want %s", c.given, got, c.want)
		}
	}
}

// TestNegativeValues gives every flag that is a number or a duration a negative one, as a word of
// its own: it is the flag's value, or refused with the flag's name, and never taken for a flag.
func TestNegativeValues(t *testing.T) {
	tried := 0
	for _, command := range leaves(newParser(t).Model.Node) {
		for _, f := range command.Flags {
			value := "-7"
			switch {
			case f.Target.Type() == reflect.TypeFor[time.Duration]():
				value = "-7s"
			case !slices.Contains([]reflect.Kind{reflect.Int, reflect.Int64, reflect.Uint64,
				reflect.Float64}, f.Target.Kind()):
				continue
			}
			args := append(strings.Fields(command.Path()), "--"+f.Name, value)
			_, err := newParser(t).Parse(joinNegatives(args))
			// The flag's value was read before the parser missed a required argument.
			if err != nil && !strings.Contains(err.Error(), "--"+f.Name) &&
				!strings.Contains(err.Error(), "missing flags") &&
				!strings.Contains(err.Error(), "expected \"<") {
				t.Errorf("%v: %v", args, err)
			}
			tried++
		}
	}
	if tried < 40 {
		t.Errorf("only %d flags take a number", tried)
	}
}

func newParser(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("rollcall"), kong.DefaultEnvars("ROLLCALL"))
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// leaves are the commands that can be run.
func leaves(n *kong.Node) []*kong.Node {
	if len(n.Children) == 0 {
		return []*kong.Node{n}
	}
	var all []*kong.Node
	for _, child := range n.Children {
		all = append(all, leaves(child)...)
	}
	return all
}
