package loadgen

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// ProgressLine shows progress: on a terminal one line that is written over every second, elsewhere
// a plain line whenever the stage changes and every five seconds.
type ProgressLine struct {
	w     io.Writer
	width int // of the terminal; 0: it is none
	used  int // of it, by the last line
	stage string
	shown time.Time
}

// NewProgressLine shows progress on w, a terminal with so many columns; 0: no terminal.
func NewProgressLine(w io.Writer, width int) *ProgressLine {
	return &ProgressLine{w: w, width: width}
}

// Show is Options.Progress.
func (l *ProgressLine) Show(p Progress) {
	text := p.String()
	if l.width > 0 {
		line := []rune(text)
		line = line[:min(len(line), l.width-1)] // a line that wraps cannot be written over
		fmt.Fprint(l.w, "\r", string(line), strings.Repeat(" ", max(0, l.used-len(line))))
		l.used = len(line)
		return
	}
	if p.Stage == l.stage && time.Since(l.shown) < 5*time.Second {
		return
	}
	l.stage, l.shown = p.Stage, time.Now()
	fmt.Fprintln(l.w, text)
}

// Close takes the line off a terminal.
func (l *ProgressLine) Close() {
	if l.used > 0 {
		fmt.Fprint(l.w, "\r", strings.Repeat(" ", l.used), "\r")
		l.used = 0
	}
}

func (p Progress) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s %3.0fs left  %.0f/s of %.0f/s  p99 %s  errors %d", p.Stage,
		p.Left.Seconds(), p.Achieved, p.Offered,
		millis(p.P99), p.Errors)
	if p.Backlog > 0 {
		fmt.Fprintf(&b, "  waiting %d", p.Backlog)
	}
	if p.Streams > 0 {
		fmt.Fprintf(&b, "  %d streams  %.0f frames/s p99 %s", p.Streams, p.Frames,
			millis(p.FrameP99))
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
