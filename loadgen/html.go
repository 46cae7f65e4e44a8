package loadgen

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms": func(ms float64) string {
		text := millis(ms)
		unit := strings.TrimLeft(text, "0123456789.")
		return strings.TrimSuffix(text, unit) + "\u202f" + unit
	},
	"whole": func(v any) string {
		if f, ok := v.(float64); ok {
			return groupDigits(int64(math.Round(f)))
		}
		return groupDigits(reflect.ValueOf(v).Int())
	},
}).Parse(reportPage))

// WriteHTML writes the report as one page that needs nothing else.
func (rep *Report) WriteHTML(w io.Writer) error {
	p := page{Report: rep}
	load := 0.0
	for _, ph := range rep.Phases {
		load += ph.Seconds
	}
	p.whole = rep.Series[:min(len(rep.Series), int(load+0.01))]
	return reportTemplate.Execute(w, p)
}

// page is the report as the template sees it.
type page struct {
	*Report
	whole []Second // of the load; what comes after it is no whole second
}

// Row is one line of a table.
type Row struct {
	Name  string
	Value string
	*Latency
}

// Verdicts is the banner: its class, its words.
func (p page) Verdicts() (v struct{ Class, Text string }) {
	v.Class, v.Text = "good", "Passed: the oracle found nothing wrong"
	switch {
	case !p.Verdict.Passed():
		v.Class, v.Text = "bad", "Failed: the oracle found violations"
	case !p.Verdict.Valid():
		v.Class, v.Text = "warn", "Invalid: these figures are not to be used"
	case p.Options.NoOracle:
		v.Text = "Finished; nothing was judged"
	}
	return v
}

// Crowd is the run in a sentence.
func (p page) Crowd() string {
	o := &p.Options
	mode := o.Arrivals + " arrivals"
	if o.Closed {
		mode = "closed loop"
	}
	lists := ""
	if o.Lists > 0 {
		lists = fmt.Sprintf(", %s lists of %s users (view %s)", groupDigits(int64(o.Lists)),
			groupDigits(int64(o.ListSize)), o.ListView)
	}
	return fmt.Sprintf("%s, %s. %s users with %s devices each, %s streams%s, TTL %v, "+
		"%.0f s measured after %v of warm-up.",
		o.Scenario, mode, groupDigits(int64(o.Users)), groupDigits(int64(o.DevicesPerUser)),
		groupDigits(int64(o.streams()-o.Lists)), lists, o.TTL, p.Seconds, o.Warmup)
}

// Share is achieved of offered, in percent.
func (p page) Share() float64 { return 100 * p.Achieved / math.Max(p.Offered, 1e-9) }

// Latencies are the histograms that have something in them.
func (p page) Latencies() (rows []Row) {
	for _, k := range Kinds {
		if l := p.Latency[k.Key]; l != nil && l.Count > 0 {
			rows = append(rows, Row{Name: k.Title, Latency: l})
		}
	}
	return append(rows, Row{Name: "generator's own lag", Latency: &p.Generator.Lag})
}

// CountRows are the counts that are not zero.
func (p page) CountRows() (rows []Row) {
	for _, name := range countNames {
		if n := p.Counts[name]; n != 0 {
			rows = append(rows, Row{Name: strings.ReplaceAll(name, "_", " "),
				Value: groupDigits(n)})
		}
	}
	return rows
}

// Settings is every option by its JSON name.
func (p page) Settings() (rows []Row) {
	v := reflect.ValueOf(p.Options)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		value := fmt.Sprint(v.Field(i).Interface())
		if d, ok := v.Field(i).Interface().(time.Duration); ok {
			value = d.String()
		}
		rows = append(rows, Row{Name: strings.ReplaceAll(strings.TrimSuffix(name, "_ns"), "_", " "),
			Value: value})
	}
	return rows
}

// Charts are the plots.
func (p page) Charts() []*chart {
	charts := []*chart{p.percentiles(), p.rates(), p.latencies()}
	frames := false
	for _, s := range p.whole {
		frames = frames || s.Frames > 0
	}
	if frames {
		charts = append(charts, p.streams())
	}
	return charts
}

func (p page) percentiles() *chart {
	c := &chart{Title: "Latency by percentile",
		Note: "Each nine is as wide as the one before. From when a thing was due, so that " +
			"waiting for a slow server counts."}
	widest, least, most := 1.0, math.Inf(1), 1e-3
	for i, k := range append(Kinds[:len(Kinds):len(Kinds)],
		struct{ Key, Title string }{"", "generator's own lag"}) {
		l := p.Latency[k.Key]
		if k.Key == "" {
			l = &p.Generator.Lag
		}
		if l == nil || l.Count == 0 {
			continue
		}
		ln := line{Name: k.Title, Color: i, Dashed: k.Key == ""}
		for _, pt := range l.Curve {
			x := -math.Log10(1 - pt[0]/100)
			if pt[0] == 100 {
				x = math.Log10(float64(max(l.Count, 2)))
			}
			widest, least, most = math.Max(widest, x), math.Min(least, pt[1]), math.Max(most, pt[1])
			ln.Points = append(ln.Points, [2]float64{x, pt[1]})
		}
		c.lines = append(c.lines, ln)
	}
	c.x, c.y = ninesAxis(widest), logAxis("latency", math.Min(least, most), most)
	return c
}

// overTime makes a chart whose x axis is the run.
func (p page) overTime(title, note string) *chart {
	c := &chart{Title: title, Note: note, x: timeAxis(float64(len(p.whole)))}
	at := 0.0
	for _, ph := range p.Phases {
		c.bands = append(c.bands, band{ph.Name, at, at + ph.Seconds})
		at += ph.Seconds
	}
	return c
}

// curve takes one figure of each second, at the second's middle.
func (p page) curve(name string, color int, value func(*Second) float64) (l line, most float64) {
	l = line{Name: name, Color: color}
	for i := range p.whole {
		v := value(&p.whole[i])
		most = math.Max(most, v)
		l.Points = append(l.Points, [2]float64{float64(p.whole[i].At) + 0.5, v})
	}
	return l, most
}

func (p page) rates() *chart {
	c := p.overTime("Heartbeats per second", "Offered is what fell due; achieved is what was "+
		"answered 204. A gap between them is a backlog.")
	off, most := p.curve("offered", 4, func(s *Second) float64 { return float64(s.Offered) })
	off.Dashed = true
	got, m := p.curve("achieved", 0, func(s *Second) float64 { return float64(s.Accepted) })
	bad, n := p.curve("errors", 3, func(s *Second) float64 { return float64(s.Errors) })
	c.lines = []line{off, got}
	if n > 0 {
		c.lines = append(c.lines, bad)
	}
	c.y = linearAxis("per second", "/s", math.Max(math.Max(most, m), math.Max(n, 1)))
	return c
}

func (p page) latencies() *chart {
	c := p.overTime("Latency over time", "Of what was answered in each second.")
	least, most := math.Inf(1), 1e-3
	add := func(name string, color int, dashed bool, value func(*Second) float64) {
		l, m := p.curve(name, color, value)
		if m == 0 {
			return
		}
		kept := l.Points[:0]
		for _, pt := range l.Points {
			if pt[1] > 0 { // a second without samples has no latency
				kept = append(kept, pt)
				least = math.Min(least, pt[1])
			}
		}
		l.Points, l.Dashed = kept, dashed
		most = math.Max(most, m)
		c.lines = append(c.lines, l)
	}
	add("204: p50", 0, true, func(s *Second) float64 { return s.AnswerP50 })
	add("204: p99", 0, false, func(s *Second) float64 { return s.AnswerP99 })
	add("204: max", 3, false, func(s *Second) float64 { return s.AnswerMax })
	add("frame: p50", 1, true, func(s *Second) float64 { return s.FrameP50 })
	add("frame: p99", 1, false, func(s *Second) float64 { return s.FrameP99 })
	add("offline: max", 2, false, func(s *Second) float64 { return s.OfflineMax })
	add("own lag: max", 6, true, func(s *Second) float64 { return s.Lag })
	c.y = logAxis("latency", math.Min(least, most), most)
	return c
}

func (p page) streams() *chart {
	c := p.overTime("Streams", "Frames per second over all streams, and how many streams were up.")
	f, most := p.curve("frames per second", 1, func(s *Second) float64 { return float64(s.Frames) })
	up, m := p.curve("streams up", 2, func(s *Second) float64 { return float64(s.Streams) })
	lost, n := p.curve("conflated per second", 3,
		func(s *Second) float64 { return float64(s.Conflated) })
	up.steps = true
	c.lines = []line{f, up}
	if n > 0 {
		c.lines = append(c.lines, lost)
	}
	c.y = linearAxis("", "", math.Max(math.Max(most, m), math.Max(n, 1)))
	return c
}

// groupDigits writes a number with thin spaces between thousands.
func groupDigits(v int64) string {
	text := strconv.FormatInt(v, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u2009" + text[i:]
	}
	return text
}
