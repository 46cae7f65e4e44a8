package test

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"rollcall/internal/testwait"
)

// scrape reads /metrics as Prometheus does.
func (r *rig) scrape() map[string]*dto.MetricFamily {
	r.t.Helper()
	res, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil || res.StatusCode != 200 {
		r.t.Fatalf("status %d: %v", res.StatusCode, err)
	}
	return families
}

// value is a sample of a counter or gauge, or the number of observations of a histogram; labels are
// "name=value".
func value(t *testing.T, families map[string]*dto.MetricFamily, name string,
	labels ...string) float64 {
	t.Helper()
	for _, m := range families["rollcall_"+name].GetMetric() {
		if slices.Equal(labelsOf(m), labels) {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() +
				float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no %s%v", name, labels)
	return 0
}

func labelsOf(m *dto.Metric) (labels []string) {
	for _, l := range m.Label {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	return labels
}

// TestMetricsCount drives one of each and reads what came of it.
func TestMetricsCount(t *testing.T) {
	r := startServer(t, "--max-devices=3", "--rate-per-ip=1000000")
	brief := newBeat().with("ttl_ms", 1)
	user := brief["user_id"].(string)
	s := r.follow(user)
	r.mustBeat(brief)
	for s.event()["status"] != "offline" {
	}
	steady := newBeat().with("user_id", user)
	r.mustBeat(steady)
	r.beat(steady)
	r.mustBeat(newBeat())
	if a := r.beat(newBeat()); a.status != 503 {
		t.Errorf("a device too many: %d", a.status)
	}
	r.beat(newBeat().with("ttl_ms", 0))
	r.send(request("POST", heartbeatPath, "{}", bearer("wrong")))
	r.send(request("GET", streamPath+"?user_id="+user, "", bearer("wrong")))
	r.send(request("GET", streamPath+"?user_id=bob", "", bearer("wrong")))
	s.event()

	// What no client waits for is counted behind what a stream shows of it: the broadcaster
	// publishes its figures at the start of the turn after, and the expire loop counts what it has
	// told.
	got := r.scrape()
	r.until("three frames and the expiry are counted", func() bool {
		got = r.scrape()
		return value(t, got, "stream_frames_total") >= 3 && value(t, got, "expiries_total") >= 1
	})
	for _, want := range []struct {
		is     float64
		name   string
		labels []string
	}{
		{3, "heartbeats_total", []string{"outcome=accepted"}},
		{1, "heartbeats_total", []string{"outcome=stale"}},
		{1, "heartbeats_total", []string{"outcome=invalid"}},
		{1, "heartbeats_total", []string{"outcome=unauthorized"}},
		{0, "heartbeats_total", []string{"outcome=rate_limited"}},
		{1, "heartbeats_total", []string{"outcome=unavailable"}},
		{2, "devices", []string{"status=online"}},
		{1, "devices", []string{"status=offline"}},
		{3, "devices_limit", nil},
		{1, "devices_refused_total", nil},
		{2, "users", []string{"status=online"}},
		{0, "users", []string{"status=offline"}},
		{1, "expiries_total", nil},
		{1, "expiry_lateness_seconds", nil},
		{1, "streams", nil},
		{1, "streams_opened_total", nil},
		{1, "streams_refused_total", []string{"reason=invalid_token"}},
		{1, "streams_refused_total", []string{"reason=invalid"}},
		{3, "stream_frames_total", nil},
		{4, "log_appended_lsn", nil},
		{1, "ready", nil},
		{0, "checkpoint_failures_total", nil},
	} {
		if is := value(t, got, want.name, want.labels...); is != want.is {
			t.Errorf("%s%v is %v, want %v", want.name, want.labels, is, want.is)
		}
	}
	commits := got["rollcall_log_commit_records"].Metric[0].GetHistogram()
	if commits.GetSampleSum() != 4 || commits.GetSampleCount() > 4 {
		t.Errorf("%v records in %d commits, want 4", commits.GetSampleSum(), commits.GetSampleCount())
	}
	delivery := got["rollcall_delivery_seconds"].Metric[0].GetHistogram()
	if n, sum := delivery.GetSampleCount(),
		delivery.GetSampleSum(); n < 1 || n > 2 || sum <= 0 || sum > testwait.Limit.Seconds() {
		t.Errorf("delivery: %d measured, %v s together", n, sum)
	}
	if at := value(t, got, "checkpoint_timestamp_seconds"); time.Since(time.Unix(int64(at), 0)).Abs() > time.Hour {
		t.Errorf("checkpoint_timestamp_seconds is %v", at)
	}
}

// metricRow is a line of the tables of docs/metrics.md: name, type, labels, meaning.
var metricRow = regexp.MustCompile("(?m)^\\| `(rollcall_\\w+)` \\| (counter|gauge|histogram) \\|([^|]*)\\| ")

// TestMetricsAreDocumented compares what a server shows with docs/metrics.md, and asks Prometheus'
// linter.
func TestMetricsAreDocumented(t *testing.T) {
	checkDocumented(t, startServer(t, "--rate-per-ip=1000000").scrape(), "Nodes of a cluster")
}

// checkDocumented compares metrics with all parts of docs/metrics.md but one.
func checkDocumented(t *testing.T, families map[string]*dto.MetricFamily, without string) {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for _, part := range strings.Split(string(text), "\n## ") {
		if strings.HasPrefix(part, without+"\n") {
			continue
		}
		for _, row := range metricRow.FindAllStringSubmatch(part, -1) {
			documented[row[1]] = row[2:]
		}
	}
	var ours []*dto.MetricFamily
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		if !strings.HasPrefix(name, "rollcall_") {
			if !regexp.MustCompile("^(go|process|promhttp)_").MatchString(name) {
				t.Errorf("%s has a prefix that docs/metrics.md does not speak of", name)
			}
			continue
		}
		ours = append(ours, f)
		row, ok := documented[name]
		if !ok {
			t.Errorf("%s is not in docs/metrics.md: add a row", name)
			continue
		}
		if kind := strings.ToLower(f.GetType().String()); row[0] != kind {
			t.Errorf("%s is a %s, docs/metrics.md says %s", name, kind, row[0])
		}
		checkLabels(t, f, row[1])
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("%s is in docs/metrics.md but the server does not show it: take the row out", name)
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if len(ours) < 40 {
		t.Errorf("only %d families: the test has not seen them all", len(ours))
	}
}

// checkLabels compares a family's labels with the cell of its row. Where the cell lists a label's
// values, all are there.
func checkLabels(t *testing.T, f *dto.MetricFamily, cell string) {
	quoted := regexp.MustCompile("`([^`]+)`")
	names, values, listed := strings.Cut(cell, ":")
	want, got := map[string]bool{}, map[string]bool{}
	for _, m := range quoted.FindAllStringSubmatch(names, -1) {
		if !listed {
			want[m[1]] = true
			continue
		}
		for _, v := range quoted.FindAllStringSubmatch(values, -1) {
			want[m[1]+"="+v[1]] = true
		}
	}
	for _, m := range f.Metric {
		for _, l := range labelsOf(m) {
			if !listed {
				l, _, _ = strings.Cut(l, "=")
			}
			got[l] = true
		}
	}
	if !maps.Equal(want, got) {
		t.Errorf("%s has the labels %v, docs/metrics.md says %v", f.GetName(),
			slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}
