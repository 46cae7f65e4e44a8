// Package page is the operators' page: one self-contained document that shows a server's pulse from
// /metrics, its users from /debug/users and one user's devices from the stream. It knows nothing of
// the server but its routes.
//
// The sources are files of their own, so that each can be read; New joins them once, and the
// browser gets one answer that asks for nothing else. The policy sent with it allows exactly this
// script and this style, no other source, no text turned into markup, and no frame around it. Only
// requests may go elsewhere, since the stream is on another origin.
package page

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

var (
	//go:embed page.html
	markup string
	//go:embed page.css
	style string
	//go:embed metrics.js
	metricsScript string
	//go:embed plot.js
	plotScript string
	//go:embed pulse.js
	pulseScript string
	//go:embed users.js
	usersScript string
	//go:embed devices.js
	devicesScript string
)

// New returns the handler of the page. It may be used from any goroutine.
func New() http.Handler {
	script := metricsScript + plotScript + pulseScript + usersScript + devicesScript
	document := []byte(strings.NewReplacer(
		"<style></style>", "<style>"+style+"</style>",
		`<script type="module"></script>`, `<script type="module">`+script+"</script>",
	).Replace(markup))
	policy := strings.Join([]string{
		"default-src 'none'",
		"script-src " + hashed(script),
		"style-src " + hashed(style),
		"connect-src 'self' http: https:",
		"img-src data:",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(document)
	})
}

// hashed is the source of a policy that stands for exactly this text.
func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
