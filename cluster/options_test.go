package cluster

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

// usable are options that Check takes.
func usable() Options {
	return Options{
		Node: "a", Dir: "data", Listen: "127.0.0.1:6222",
		Peers: []string{"127.0.0.1:6223", "[::1]:6224", "localhost"}, Bootstrap: 3,
	}
}

func TestOptionsCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string // "": it is taken
	}{
		"loopback only":        {func(*Options) {}, ""},
		"a node that is alone": {func(o *Options) { o.Peers, o.Bootstrap, o.Replicas = nil, 1, 1 }, "Bootstrap"},
		"joins":                {func(o *Options) { o.Bootstrap = 0 }, ""},
		"no name":              {func(o *Options) { o.Node = "" }, "Node"},
		"a name with a dot":    {func(o *Options) { o.Node = "a.b" }, "Node"},
		"a wildcard":           {func(o *Options) { o.Name = "*" }, "Name"},
		"no directory":         {func(o *Options) { o.Dir = "" }, "Dir"},
		"no port":              {func(o *Options) { o.Listen = "localhost" }, "Listen"},
		"no peers":             {func(o *Options) { o.Peers = nil }, "Peers"},
		"a URL":                {func(o *Options) { o.Peers = []string{"nats://localhost:1"} }, "Peers"},
		"no key":               {func(o *Options) { o.Peers = []string{"presence"} }, "Keys"},
		"no key, all reach it": {func(o *Options) { o.Listen = ":6222" }, "Keys"},
		"a key": {func(o *Options) {
			o.Peers, o.Listen, o.Keys = []string{"presence"}, ":6222", []string{"secret"}
		}, ""},
		"TLS": {func(o *Options) {
			o.Peers, o.Listen, o.TLS = []string{"presence"}, ":6222", &tls.Config{}
		}, ""},
		"two replicas":             {func(o *Options) { o.Replicas = 2 }, "Replicas"},
		"more replicas than nodes": {func(o *Options) { o.Replicas = 5 }, "Bootstrap"},
		"too many nodes":           {func(o *Options) { o.Bootstrap = 65 }, "Bootstrap"},
		"too many partitions":      {func(o *Options) { o.Partitions = 1025 }, "Partitions"},
		"clocks that are no help":  {func(o *Options) { o.MaxSkew = time.Hour }, "MaxSkew"},
	} {
		t.Run(name, func(t *testing.T) {
			o := usable()
			c.change(&o)
			err := o.Check()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(),
				"cluster: option "+c.want+" ")):
				t.Errorf("%v, want one of %s", err, c.want)
			}
		})
	}
}

// TestPeerAddrs: a peer without a port has that of this node.
func TestPeerAddrs(t *testing.T) {
	o := usable()
	o.Peers = []string{"presence", "10.0.0.1:1", "::1", "[::1]", "[::1]:2"}
	got := strings.Join(o.PeerAddrs(), " ")
	if want := "presence:6222 10.0.0.1:1 [::1]:6222 [::1]:6222 [::1]:2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
