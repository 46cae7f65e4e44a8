package check

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// unit returns the path of a copy of the unit whose program exists, since systemd looks for it.
func unit(t *testing.T) string {
	text := string(read(t, "deploy/systemd/rollcall.service"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "ExecStart=/usr/local/bin/rollcall serve\n") {
		t.Fatal("the unit starts something else")
	}
	return scratch(t, "rollcall.service", strings.Replace(text, "/usr/local/bin/rollcall", self, 1))
}

func TestSystemdUnitIsValid(t *testing.T) {
	if out := tool(t, "systemd-analyze", "verify", "--man=no", unit(t)); strings.TrimSpace(out) != "" {
		t.Errorf("systemd warns:\n%s", out)
	}
}

// TestSystemdUnitIsHardened: an exposure of 2.0 of 10 at most, by systemd's own count.
func TestSystemdUnitIsHardened(t *testing.T) {
	tool(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", unit(t))
}

// TestSystemdSettingsAreFlags: each variable of the environment files is a flag of rollcall serve.
func TestSystemdSettingsAreFlags(t *testing.T) {
	serve := string(read(t, "cmd/rollcall/serve.go"))
	node := string(read(t, "cmd/rollcall/cluster.go"))
	settings := string(read(t, "deploy/systemd/rollcall.env")) +
		string(read(t, "deploy/systemd/rollcall-node.env"))
	for _, m := range regexp.MustCompile(`(?m)^ROLLCALL_([A-Z_]+)=`).FindAllStringSubmatch(settings, -1) {
		name, source := m[1], serve
		if of, ok := strings.CutPrefix(name, "CLUSTER_"); ok {
			name, source = of, node
		}
		field := ""
		for word := range strings.SplitSeq(name, "_") {
			field += word[:1] + strings.ToLower(word[1:])
		}
		if !regexp.MustCompile(`(?m)^\t` + field + `\s`).MatchString(source) {
			t.Errorf("ROLLCALL_%s is not a flag: cmd/rollcall has no field %s", m[1], field)
		}
	}
}
