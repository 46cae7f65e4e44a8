package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

const (
	ink   = "#444"
	pale  = "#b8c4d0"
	ours  = "#1f6feb"
	limit = "#d29922"
)

// bars is a horizontal bar for each series, the median, with the range as a line.
func bars(name string, m metric, rows []*series) string {
	const left, width, row, top = 230, 420, 26, 34
	most := 0.0
	for _, s := range rows {
		if v := s.metrics[m.unit]; len(v) > 0 {
			most = max(most, median(v))
		}
	}
	var b strings.Builder
	height := top + row*len(rows) + 8
	open(&b, left+width+110, height)
	fmt.Fprintf(&b, `<text x="8" y="20" font-weight="bold">%s: %s</text>`+"\n", html.EscapeString(name), html.EscapeString(m.title))
	for i, s := range rows {
		v := s.metrics[m.unit]
		if len(v) == 0 {
			continue
		}
		y := top + i*row
		w := median(v) / most * width
		color := pale
		if isOurs(s.by) {
			color = ours
		} else if _, ok := ceilings[s.by]; ok {
			color = limit
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+16, html.EscapeString(title(s.by)))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y+3, max(w, 1), row-8, color)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", left+w+6, y+16, number(median(v)))
	}
	return b.String() + "</svg>\n"
}

func open(b *strings.Builder, width, height int) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="%s">`+"\n", width, height, ink)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
}

// line is a percentile curve.
type line struct {
	title  string
	points [][2]float64 // percentile, milliseconds
	p99    float64
}

// curvesSVG draws latencies over percentiles, both logarithmic, towards 100 %.
func curvesSVG(lines []line) string {
	const left, top, width, height = 70, 20, 560, 260
	lowest, highest, nines := math.Inf(1), 0.0, 1.0
	for _, l := range lines {
		for _, p := range l.points {
			lowest, highest = min(lowest, max(p[1], 0.001)), max(highest, p[1])
			if p[0] < 100 {
				nines = max(nines, -math.Log10(1-p[0]/100))
			}
		}
	}
	low, high := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	x := func(percentile float64) float64 {
		return left + width*min(nines, -math.Log10(max(1-percentile/100, 1e-12)))/nines
	}
	y := func(ms float64) float64 {
		return top + height*(high-math.Log10(max(ms, 0.001)))/max(high-low, 1)
	}
	var b strings.Builder
	open(&b, left+width+150, top+height+40)
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g ms</text>`+"\n", left, left+width, y(v), y(v), left-6, y(v)+4, v)
	}
	for n := 0.0; n <= nines; n++ {
		p := 100 * (1 - math.Pow(10, -n))
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%.6g %%</text>`+"\n", x(p), x(p), top, top+height, x(p), top+height+18, p)
	}
	for i, l := range lines {
		color := ours
		if l.title != "rollcall" {
			color = limit
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, color)
		for _, p := range l.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(p[0]), y(p[1]))
		}
		fmt.Fprintf(&b, `"/><text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+width+8, top+14+16*i, color, html.EscapeString(l.title))
	}
	return b.String() + "</svg>\n"
}
