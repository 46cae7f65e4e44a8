package page

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

const maxWeight = 100 << 10 // bytes; it has to open over a bad line at 3 a.m.

// TestSelfContained: one answer, small, that asks for nothing else, under a policy that allows
// exactly what is in it.
func TestSelfContained(t *testing.T) {
	w := httptest.NewRecorder()
	New().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	html, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
	t.Logf("%d bytes", len(html))
	if len(html) > maxWeight {
		t.Errorf("the page weighs %d bytes, more than %d: say less", len(html), maxWeight)
	}
	for name, want := range map[string]string{"Content-Type": "text/html; charset=utf-8",
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, tag := range []string{"script", "style"} {
		parts := regexp.MustCompile(`(?s)<`+tag+`[^>]*>(.*?)</`+tag+`>`).FindAllStringSubmatch(html,
			-1)
		if len(parts) != 1 || len(parts[0][1]) < 1000 {
			t.Fatalf("%d %ss in the page", len(parts), tag)
		}
		sum := sha256.Sum256([]byte(parts[0][1]))
		if want := tag + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"';"; !strings.Contains(policy, want) {
			t.Errorf("the policy has no %s\n%s", want, policy)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %s", policy)
	}
	for _, asset := range regexp.MustCompile(`(?:src|href)\s*=\s*"([^"]*)"|@import\s+(\S+)|url\(([^)]*)\)|\bstyle\s*=`).FindAllStringSubmatch(html, -1) {
		if target := asset[1]; !strings.HasPrefix(target, "data:") &&
			!strings.HasPrefix(target, "#") && !(strings.HasPrefix(target, "/") &&
			strings.Contains(html, `<a href="`+target)) {
			t.Errorf("the page asks for %q", asset[0])
		}
	}
	for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
		"eval(", "new Function"} {
		if strings.Contains(html, sink) {
			t.Errorf("%s in the page: build elements, data is never markup", sink)
		}
	}
}
