package loadgen

import (
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// chart is one plot of the HTML report, drawn as SVG. Its points also go into the page as data, for
// the values under the pointer.
type chart struct {
	Title, Note string
	x, y        axis
	lines       []line
	bands       []band
}

// line is one named curve. Points must be in order of x.
type line struct {
	Name   string       `json:"name"`
	Color  int          `json:"color"` // of the page's palette
	Points [][2]float64 `json:"points"`
	Dashed bool         `json:"-"`
	steps  bool
}

// band is a named stretch of the x axis.
type band struct {
	name     string
	from, to float64
}

// axis maps values to 0 … 1 and says where its ticks are.
type axis struct {
	label    string
	at       func(v float64) float64
	ticks    []tick
	Unit     string
	Nines    bool // x is a number of nines
	from, to float64
}

type tick struct {
	value float64
	label string
}

const (
	chartWidth, chartHeight               = 880.0, 300.0
	plotLeft, plotTop, plotRight, plotLow = 64.0, 22.0, 14.0, 40.0
)

// linearAxis begins at 0 and ends at a round number above most.
func linearAxis(label, unit string, most float64) axis {
	step := niceStep(most / 5)
	a := axis{label: label, Unit: unit, to: math.Max(step, math.Ceil(most/step-1e-9)*step)}
	for v := 0.0; v <= a.to+step/2; v += step {
		a.ticks = append(a.ticks, tick{v, compact(v, a.to)})
	}
	a.at = func(v float64) float64 { return v / a.to }
	return a
}

// timeAxis is seconds; it ends where the data does.
func timeAxis(most float64) axis {
	a := linearAxis("seconds since the load began", "s", most)
	a.to = math.Max(most, 1)
	for i, t := range a.ticks {
		if t.value > a.to {
			a.ticks = a.ticks[:i]
			break
		}
	}
	return a
}

// logAxis covers whole decades of milliseconds.
func logAxis(label string, least, most float64) axis {
	low := math.Floor(math.Log10(math.Max(least, 1e-3)))
	high := math.Ceil(math.Log10(math.Max(most, 1e-3)))
	if high <= low {
		high = low + 1
	}
	a := axis{label: label, Unit: "ms", from: low, to: high}
	for d := low; d <= high; d++ {
		a.ticks = append(a.ticks, tick{math.Pow(10, d), millisTick(d)})
	}
	a.at = func(v float64) float64 {
		return (math.Log10(math.Max(v, math.Pow(10, low))) - low) / (high - low)
	}
	return a
}

func millisTick(decade float64) string {
	switch {
	case decade < 0:
		return fmt.Sprintf("%.0f µs", 1000*math.Pow(10, decade))
	case decade < 3:
		return fmt.Sprintf("%.0f ms", math.Pow(10, decade))
	}
	return fmt.Sprintf("%.0f s", math.Pow(10, decade-3))
}

// ninesAxis spreads percentiles so that each further nine is as wide as the one before.
func ninesAxis(most float64) axis {
	a := axis{label: "percentile", Nines: true, to: math.Max(most, 1)}
	for _, t := range []tick{{0, "0 %"}, {math.Log10(2), "50 %"}, {1, "90 %"}, {2, "99 %"},
		{3, "99.9 %"}, {4, "99.99 %"}, {5, "99.999 %"}, {6, "99.9999 %"}} {
		if t.value <= a.to {
			a.ticks = append(a.ticks, t)
		}
	}
	a.at = func(v float64) float64 { return v / a.to }
	return a
}

func niceStep(rough float64) float64 {
	if rough <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*unit >= rough*0.999 {
			return m * unit
		}
	}
	return 10 * unit
}

// compact writes a number for a tick, in the unit that suits the axis.
func compact(v, most float64) string {
	unit := ""
	switch {
	case most >= 1e6:
		v, unit = v/1e6, " M"
	case most >= 1e4:
		v, unit = v/1e3, " k"
	}
	if v == 0 {
		return "0"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + unit
}

func (c *chart) px(x float64) float64 {
	return plotLeft + math.Min(math.Max(c.x.at(x), 0), 1)*(chartWidth-plotLeft-plotRight)
}

func (c *chart) py(y float64) float64 {
	return chartHeight - plotLow - math.Min(math.Max(c.y.at(y), 0), 1)*(chartHeight-plotTop-plotLow)
}

// SVG draws the chart. Colours are classes, so that the page's dark mode applies.
func (c *chart) SVG() template.HTML {
	var b strings.Builder
	low, right := chartHeight-plotLow, chartWidth-plotRight
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartWidth, chartHeight,
		html.EscapeString(c.Title))
	for i, band := range c.bands {
		from, to := c.px(band.from), c.px(band.to)
		fmt.Fprintf(&b, `<rect class="band%d" x="%.1f" y="%g" width="%.1f" height="%.1f"/>`, i%2,
			from, plotTop, to-from, low-plotTop)
		if width := to - from; width > 6.2*float64(len(band.name)) {
			fmt.Fprintf(&b, `<text class="bandname" x="%.1f" y="%g">%s</text>`, from+width/2,
				plotTop-7, html.EscapeString(band.name))
		}
	}
	for _, t := range c.y.ticks {
		y := c.py(t.value)
		fmt.Fprintf(&b, `<path class="grid" d="M%g %.1fH%g"/>`, plotLeft, y, right)
		fmt.Fprintf(&b, `<text class="y" x="%g" y="%.1f">%s</text>`, plotLeft-8, y+4, t.label)
	}
	for _, t := range c.x.ticks {
		x := c.px(t.value)
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %gV%g"/>`, x, plotTop, low)
		fmt.Fprintf(&b, `<text class="x" x="%.1f" y="%g">%s</text>`, x, low+17, t.label)
	}
	fmt.Fprintf(&b, `<text class="x label" x="%.1f" y="%g">%s</text>`, (plotLeft+right)/2,
		chartHeight-4, html.EscapeString(c.x.label))
	fmt.Fprintf(&b, `<text class="x label" transform="translate(12 %.1f) rotate(-90)">%s</text>`,
		(plotTop+low)/2, html.EscapeString(c.y.label))
	for _, l := range c.lines {
		dash := ""
		if l.Dashed {
			dash = ` stroke-dasharray="5 4"`
		}
		fmt.Fprintf(&b, `<path class="line c%d"%s d="%s"/>`, l.Color, dash, c.path(&l))
	}
	fmt.Fprintf(&b, `<path class="rule" d="M0 %gV%g" visibility="hidden"/></svg>`, plotTop, low)
	return template.HTML(b.String())
}

func (c *chart) path(l *line) string {
	var b strings.Builder
	lastY := 0.0
	for i, p := range l.Points {
		x, y := c.px(p[0]), c.py(p[1])
		switch {
		case i == 0:
			fmt.Fprintf(&b, "M%.1f %.1f", x, y)
		case l.steps && y != lastY:
			fmt.Fprintf(&b, "H%.1fV%.1f", x, y)
		default:
			fmt.Fprintf(&b, "L%.1f %.1f", x, y)
		}
		lastY = y
	}
	return b.String()
}

// Legend is the lines' names with their colours.
func (c *chart) Legend() []line { return c.lines }

// Data is what the page's script needs to show values under the pointer.
func (c *chart) Data() template.JS {
	type mapped struct {
		line
		Pixels []float64 `json:"px"`
	}
	data := struct {
		Nines bool     `json:"nines"`
		Unit  string   `json:"unit"`
		Lines []mapped `json:"lines"`
	}{Nines: c.x.Nines, Unit: c.y.Unit}
	for _, l := range c.lines {
		m := mapped{line: l}
		for _, p := range l.Points {
			m.Pixels = append(m.Pixels, math.Round(c.px(p[0])*10)/10)
		}
		data.Lines = append(data.Lines, m)
	}
	b, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("bug: %v", err)) // only for NaN, which no figure is
	}
	return template.JS(b)
}
