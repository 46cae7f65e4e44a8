package loadgen

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// ProgressLine shows progress: on a terminal one line that is written over every second, elsewhere a plain line whenever the
// stage changes and every five seconds.
type ProgressLine struct {
	w        io.Writer
	terminal bool
	stage    string
	shown    time.Time
	width    int
}

// NewProgressLine shows progress on w.
func NewProgressLine(w io.Writer, terminal bool) *ProgressLine {
	return &ProgressLine{w: w, terminal: terminal}
}

// Show is Options.Progress.
func (l *ProgressLine) Show(p Progress) {
	text := p.String()
	if l.terminal {
		pad := strings.Repeat(" ", max(0, l.width-len(text)))
		l.width = len(text)
		fmt.Fprint(l.w, "\r", text, pad)
		return
	}
	if p.Stage == l.stage && time.Since(l.shown) < 5*time.Second {
		return
	}
	l.stage, l.shown = p.Stage, time.Now()
	fmt.Fprintln(l.w, text)
}

// Close ends the line on a terminal.
func (l *ProgressLine) Close() {
	if l.terminal && l.width > 0 {
		fmt.Fprint(l.w, "\r", strings.Repeat(" ", l.width), "\r")
	}
}

func (p Progress) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s %3.0fs left  %.0f/s of %.0f/s  p99 %s", p.Stage, p.Left.Seconds(), p.Achieved, p.Offered, millis(p.P99))
	if p.Streams > 0 {
		fmt.Fprintf(&b, "  %d streams  %.0f frames/s p99 %s", p.Streams, p.Frames, millis(p.FrameP99))
	}
	fmt.Fprintf(&b, "  errors %d", p.Errors)
	if p.Backlog > 0 {
		fmt.Fprintf(&b, "  waiting %d", p.Backlog)
	}
	fmt.Fprintf(&b, "  own cpu %.2f lag %s", p.CPU, millis(p.Lag))
	return b.String()
}

// millis writes milliseconds with three digits or so.
func millis(ms float64) string {
	switch {
	case ms >= 1000:
		return fmt.Sprintf("%.2fs", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0fms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.0fµs", ms*1000)
}
