package check

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

type ruleTests struct {
	Tests []struct {
		AlertRuleTest []struct {
			Alertname string `json:"alertname"`
			ExpAlerts []any  `json:"exp_alerts"`
		} `json:"alert_rule_test"`
	}
}

func TestPrometheusFilesAreValid(t *testing.T) {
	dir := filepath.Join(root, "deploy/prometheus")
	// and the rules that it names
	tool(t, "promtool", "check", "config", filepath.Join(dir, "prometheus.yml"))
	tool(t, "promtool", "test", "rules", filepath.Join(dir, "rules_test.yml"))
}

// TestEveryAlertIsTestedAndExplained: each alert fires in one case of rules_test.yml and keeps
// quiet in two, says who gets up for it, and has a section in the operators' book.
func TestEveryAlertIsTestedAndExplained(t *testing.T) {
	var rules ruleFile
	var tests ruleTests
	if err := yaml.Unmarshal(read(t, "deploy/prometheus/rules.yml"), &rules); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(read(t, "deploy/prometheus/rules_test.yml"), &tests); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]int{}, map[string]int{}
	for _, test := range tests.Tests {
		for _, c := range test.AlertRuleTest {
			if len(c.ExpAlerts) > 0 {
				fires[c.Alertname]++
			} else {
				quiet[c.Alertname]++
			}
		}
	}
	anchors := headings(string(read(t, "docs/operations.md")))
	alerts := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts++
			if fires[r.Alert] < 1 || quiet[r.Alert] < 2 {
				t.Errorf("%s fires in %d cases of rules_test.yml and keeps quiet in %d: want 1 and 2 at least", r.Alert, fires[r.Alert], quiet[r.Alert])
			}
			if s := r.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			anchor, ok := strings.CutPrefix(r.Annotations["runbook"], "docs/operations.md#")
			if !ok || !anchors[anchor] {
				t.Errorf("%s: its runbook %q is not a heading of docs/operations.md", r.Alert, r.Annotations["runbook"])
			}
			delete(anchors, anchor)
		}
	}
	if alerts < 20 {
		t.Errorf("only %d alerts were read", alerts)
	}
	for anchor := range anchors {
		if strings.HasPrefix(anchor, "rollcall") {
			t.Errorf("docs/operations.md explains the alert %s, which does not exist", anchor)
		}
	}
}

// headings returns the anchors of a page as GitHub makes them.
func headings(page string) map[string]bool {
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		a := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(a, " ", "-")] = true
	}
	return anchors
}

// TestDashboard: panels have ids of their own, do not overlap, say what they show, and hold queries
// that Prometheus can read.
func TestDashboard(t *testing.T) {
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(read(t, "deploy/grafana/rollcall.json"), &board); err != nil {
		t.Fatal(err)
	}
	rules := strings.Builder{}
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	query := func(expr string) {
		expr = strings.NewReplacer("$__rate_interval", "1m", "$job", "rollcall", "$instance", ".*").Replace(expr)
		text, _ := json.Marshal(expr) // which is YAML too
		fmt.Fprintf(&rules, "  - {record: 'panel:%d', expr: %s}\n", rules.Len(), text)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its id or its title is missing or not its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := cells[at]; other != "" || at[0] >= 24 {
					t.Fatalf("panel %q lies over %q, or outside", p.Title, other)
				}
				cells[at] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, q := range p.Targets {
			query(q.Expr)
		}
	}
	for _, a := range board.Annotations.List {
		query(a.Expr)
	}
	tool(t, "promtool", "check", "rules", scratch(t, "dashboard.yml", rules.String()))
}
