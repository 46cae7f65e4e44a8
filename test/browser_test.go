package test

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// The operators' page and browser streams are tried in headless Chromium. Without one the tests are
// skipped, unless ROLLCALL_BROWSER=required.

// browserPatience bounds every wait for the browser, its start included. It is not a claim about
// speed.
const browserPatience = 90 * time.Second

// browser is one tab, and what it did unasked.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	errors   []string // guarded by mu: exceptions, and what the console shows as errors
	requests []string // guarded by mu: URLs, the query left out
}

// startBrowser opens an empty tab in a browser of its own, with an empty profile.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	return startBrowserFor(t, 2*browserPatience)
}

// startBrowserFor is startBrowser for a test that takes at most this long, with more options.
func startBrowserFor(t *testing.T, within time.Duration,
	options ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	required := os.Getenv("ROLLCALL_BROWSER") == "required"
	if testing.Short() && !required {
		t.Skip("takes a browser: not with -short")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		if required {
			t.Fatal("ROLLCALL_BROWSER=required, but: ", err, "; install the package chromium")
		}
		t.Skip("needs chromium: ", err)
	}
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	flags = append(flags, options...)
	b := &browser{t: t}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	t.Cleanup(cancel)
	b.ctx, _ = chromedp.NewContext(ctx, chromedp.WithAllocatorOptions(flags...),
		chromedp.WithListener(b.heard), chromedp.WithErrorf(t.Logf))
	// closes the browser; what it says then does not matter
	t.Cleanup(func() { _ = chromedp.Cancel(b.ctx) })
	if _, err := chromedp.Call(b.ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal("the browser does not start: ", err)
	}
	return b
}

func (b *browser) heard(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.complain(e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled: // the page says nothing there, whatever the level
		b.complain(e.Args)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.errors = append(b.errors, e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		u, _, _ := strings.Cut(e.Request.URL, "?")
		b.requests = append(b.requests, u)
	}
}

// complain notes what the console shows. b.mu is held.
func (b *browser) complain(what any) {
	text, err := json.Marshal(what)
	if err != nil {
		text = []byte(err.Error())
	}
	b.errors = append(b.errors, string(text))
}

// do runs actions, within the test's testwait.Limit.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("%v\nconsole: %q", err, b.consoleErrors())
	}
}

// eval returns the text of a JavaScript expression, which may be a promise.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx,
		chromedp.Evaluate[string]("Promise.resolve("+expression+").then(String)", chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v\nconsole: %q", expression, err, b.consoleErrors())
	}
	return text
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	for end := time.Now().Add(browserPatience); b.eval("!!("+expression+")") != "true"; {
		if time.Now().After(end) {
			b.t.Fatalf("never came true: %s\npage: %s\nconsole: %q", expression, b.eval("document.body.innerText"), b.consoleErrors())
		}
		b.do(chromedp.Sleep(50 * time.Millisecond))
	}
}

func (b *browser) consoleErrors() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.errors)
}

// checkQuiet wants an empty console, and no request to any other origin than these.
func (b *browser) checkQuiet(origins ...string) {
	b.t.Helper()
	if errs := b.consoleErrors(); len(errs) > 0 {
		b.t.Errorf("console: %q", errs)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.requests {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "data" && u.Scheme != "about" &&
			!slices.Contains(origins, u.Scheme+"://"+u.Host) {
			b.t.Errorf("a request to %s", text)
		}
	}
}
