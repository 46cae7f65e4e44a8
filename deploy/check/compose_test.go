package check

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// composeFile reads deploy/compose as docker compose does: by its schema, strictly.
func composeFile(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{filepath.Join(root, "deploy/compose/compose.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestComposeNodes: three nodes with the same settings, each with a name and a volume of its own,
// and the time to stop in order.
func TestComposeNodes(t *testing.T) {
	p := composeFile(t)
	names := []string{"n1", "n2", "n3"}
	volumes := map[string]bool{}
	for _, name := range names {
		s := p.Services[name]
		env := map[string]string{}
		for k, v := range s.Environment {
			env[k] = *v
		}
		if env["ROLLCALL_CLUSTER_NODE"] != name {
			t.Errorf("%s is named %q", name, env["ROLLCALL_CLUSTER_NODE"])
		}
		if got := strings.Split(env["ROLLCALL_CLUSTER_PEERS"], ","); !slices.Equal(got, names) {
			t.Errorf("%s looks for %q", name, got)
		}
		delete(env, "ROLLCALL_CLUSTER_NODE")
		for _, other := range names {
			for k, v := range p.Services[other].Environment {
				if k != "ROLLCALL_CLUSTER_NODE" && env[k] != *v {
					t.Errorf("%s and %s differ in %s", name, other, k)
				}
			}
		}
		if env["ROLLCALL_CLUSTER_BOOTSTRAP"] != "3" {
			t.Errorf("%s makes a cluster of %s nodes", name, env["ROLLCALL_CLUSTER_BOOTSTRAP"])
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < 45*time.Second {
			t.Errorf("%s has less time than a drain may take", name)
		}
		if len(s.Volumes) != 1 || s.Volumes[0].Target != "/var/lib/rollcall" || volumes[s.Volumes[0].Source] {
			t.Errorf("%s has no data of its own: %+v", name, s.Volumes)
		}
		volumes[s.Volumes[0].Source] = true
		secrets := map[string]bool{}
		for _, secret := range s.Secrets {
			if _, ok := p.Secrets[secret.Source]; !ok {
				t.Errorf("%s wants the secret %s, which there is not", name, secret.Source)
			}
			secrets["/run/secrets/"+secret.Source] = true
		}
		for k, v := range env {
			if strings.HasSuffix(k, "_FILE") && !secrets[v] {
				t.Errorf("%s: %s=%s is not among the secrets", name, k, v)
			}
		}
		if len(s.Ports) != 0 {
			t.Errorf("%s is published beside HAProxy: %v", name, s.Ports)
		}
	}
	services := slices.Sorted(maps.Keys(p.Services))
	if !slices.Equal(services, append([]string{"haproxy"}, names...)) {
		t.Errorf("the services are %q", services)
	}
	proxy := p.Services["haproxy"]
	want := *p.Services["n1"].Environment["ROLLCALL_TRUSTED_PROXIES"]
	if got := proxy.Networks["nodes"].Ipv4Address; got != want {
		t.Errorf("HAProxy has the address %s, the nodes trust %s", got, want)
	}
	for _, v := range proxy.Volumes {
		if _, err := os.Stat(v.Source); err != nil {
			t.Error(err)
		}
	}
}

// TestComposeProxy: HAProxy accepts its file, and knows all nodes, for streams too.
func TestComposeProxy(t *testing.T) {
	const file = "deploy/compose/haproxy.cfg"
	tool(t, "haproxy", "-c", "-f", filepath.Join(root, file))
	text := string(read(t, file))
	for _, node := range []string{"n1", "n2", "n3"} {
		for _, line := range []string{
			"server " + node + " " + node + `:8787`, "server " + node + " " + node + `:8787 track nodes/` + node,
		} {
			if !regexp.MustCompile(`(?m)^    ` + line + "$").MatchString(text) {
				t.Errorf("%s lacks the line %q", file, line)
			}
		}
	}
	if !strings.Contains(text, "option httpchk GET /readyz") || !strings.Contains(text, "check port 8788") {
		t.Error("HAProxy does not ask the nodes whether they are ready")
	}
}
