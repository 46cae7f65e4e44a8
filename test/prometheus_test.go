package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// Prometheus itself scrapes the server with the files of deploy/. deploy/check tests those files
// alone.

// metricsText returns the text of /metrics.
func (r *rig) metricsText() string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.logs())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// TestDeployNamesRealMetrics: whatever alert rules and dashboard ask for is there, on a server
// alone or on a node of a cluster.
func TestDeployNamesRealMetrics(t *testing.T) {
	families := map[string]bool{}
	shown := startServer(t).metricsText() + nodeMetrics(t)
	types := regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`)
	for _, m := range types.FindAllStringSubmatch(shown, -1) {
		families[m[1]] = true
		if m[2] == "histogram" || m[2] == "summary" {
			families[m[1]+"_bucket"], families[m[1]+"_count"], families[m[1]+"_sum"] = true, true, true
		}
	}
	named := 0
	for _, file := range []string{"prometheus/rules.yml", "grafana/rollcall.json"} {
		text, err := os.ReadFile("../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`[a-zA-Z_:]+[a-z]`).FindAllString(string(text), -1) {
			if !regexp.MustCompile(`^(rollcall|go|process)_[a-z_]+$`).MatchString(name) {
				continue // another word, or a recorded series
			}
			if named++; !families[name] {
				t.Errorf("deploy/%s: the server has no metric %s", file, name)
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d names were found in the files of deploy/", named)
	}
}

// nodeMetrics is what a node of a cluster shows once the leaders of the logs say what copies there
// are, and a heartbeat was forwarded.
func nodeMetrics(t *testing.T) (text string) {
	t.Helper()
	n := newNodes(t, nil)
	n.start()
	testwait.Until(t, "the node shows all that it has", func() bool {
		n.mustBeat(0, newBeat())
		n.mustBeat(1, newBeat()) // one of the two may own everything
		text = n.rigs[0].metricsText() + n.rigs[1].metricsText()
		return strings.Contains(text, "rollcall_log_copies") &&
			strings.Contains(text, "rollcall_forward_seconds_bucket")
	})
	return text
}

// scraper is a running Prometheus.
type scraper struct {
	t    *testing.T
	base string
}

var waits = regexp.MustCompile(`(?m)^(\s+for:) \S+$`)

// startPrometheus runs Prometheus on the files of deploy/ with this server as the target and
// everything that takes minutes there shortened to a second and less. It is skipped where
// Prometheus is not installed, unless ROLLCALL_NO_SKIP is set.
func startPrometheus(t *testing.T, target string) *scraper {
	t.Helper()
	if _, err := exec.LookPath("prometheus"); err != nil {
		if os.Getenv("ROLLCALL_NO_SKIP") != "" {
			t.Fatal("with ROLLCALL_NO_SKIP nothing is left out: ", err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"prometheus.yml", "rules.yml"} {
		text, err := os.ReadFile("../deploy/prometheus/" + name)
		if err != nil {
			t.Fatal(err)
		}
		quick := strings.NewReplacer("scrape_interval: 15s", "scrape_interval: 1s", "evaluation_interval: 15s", "evaluation_interval: 200ms", "127.0.0.1:8788", target).Replace(string(text))
		quick = waits.ReplaceAllString(quick, "$1 400ms")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(quick), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := testport.Address(t)
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		logs.Close()
		if t.Failed() {
			text, _ := os.ReadFile(logs.Name())
			t.Logf("Prometheus says:\n%s", text)
		}
	})
	return &scraper{t, "http://" + address}
}

// sample is one series of an answer, with its value now.
type sample struct {
	Metric map[string]string
	Value  [2]any // time, text
}

// query asks the HTTP API; ok is false while there is no answer.
func (p *scraper) query(expr string) (samples []sample, ok bool) {
	p.t.Helper()
	resp, err := http.Get(p.base + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	var a struct {
		Status, Error string
		Data          struct{ Result []sample }
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil, false // it is starting
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Status != "success" {
		p.t.Fatalf("%s: %v %s", expr, err, a.Error)
	}
	return a.Data.Result, true
}

// until waits until the query answers with one series of this value, and does something meanwhile.
func (p *scraper) until(expr, value string, meanwhile ...func()) {
	p.t.Helper()
	var last []sample
	for late := time.Now().Add(2 * testwait.Limit); time.Now().Before(late); {
		time.Sleep(50 * time.Millisecond) // polls
		var ok bool
		if last, ok = p.query(expr); ok && len(last) == 1 && last[0].Value[1] == value {
			return
		}
		for _, do := range meanwhile {
			do()
		}
	}
	p.t.Fatalf("%s is %v, not %s, after %v", expr, last, value, 2*testwait.Limit)
}

// TestPrometheus: a real Prometheus sees the server's counters, answers every panel of the
// dashboard, and raises the alarm when tokens fail and when the server is gone, and not before.
func TestPrometheus(t *testing.T) {
	atLeisure(t)
	r := startServer(t)
	p := startPrometheus(t, r.admin)
	b := newBeat()
	for seq := range 20 {
		r.mustBeat(b.with("seq", seq))
	}
	p.until(`up{job="rollcall"}`, "1")
	p.until(`rollcall_heartbeats_total{job="rollcall",outcome="accepted"}`, "20")
	p.until(`sum(rollcall_devices{job="rollcall",status="online"})`, "1")
	// a rate needs two
	p.until(`count_over_time(rollcall_ready{job="rollcall"}[1m]) >= bool 3`, "1")
	p.answersDashboard()
	// A machine that is busy enough to miss a scrape is a reason for RollcallDown, and not this
	// test's.
	missed := `min_over_time(up{job="rollcall"}[5m]) == 0`
	if firing, _ := p.query(`ALERTS{alertstate="firing",alertname=~"RollcallDown|RollcallUnauthorizedHeartbeats"} unless on (instance) ` + missed); len(firing) > 0 {
		t.Errorf("alarms before anything is wrong: %v", firing)
	}
	p.until(`count(ALERTS{alertname="RollcallUnauthorizedHeartbeats",alertstate="firing"})`, "1", func() {
		r.send(request("POST", heartbeatPath, b.json(), bearer("wrong")))
	})
	r.kill()
	p.until(`count(ALERTS{alertname="RollcallDown",alertstate="firing"})`, "1")
}

// answersDashboard asks every query of the dashboard but those of the row of clusters. Those of
// counts that are there from the start must have an answer.
func (p *scraper) answersDashboard() {
	p.t.Helper()
	text, err := os.ReadFile("../deploy/grafana/rollcall.json")
	if err != nil {
		p.t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Type    string
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		p.t.Fatal(err)
	}
	var empty []string
	row := ""
	for _, panel := range board.Panels {
		if panel.Type == "row" {
			row = panel.Title
		}
		if row == "Cluster" {
			continue
		}
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$job", "rollcall", "$instance", ".*").Replace(target.Expr)
			if samples, _ := p.query(expr); len(samples) == 0 {
				empty = append(empty, fmt.Sprintf("%s: %s", panel.Title, expr))
			}
		}
	}
	if slices.ContainsFunc(empty, func(s string) bool {
		return !strings.Contains(s, "histogram_quantile") && !strings.Contains(s, "answers_total")
	}) {
		p.t.Errorf("panels without an answer:\n%s", strings.Join(empty, "\n"))
	}
}
