package test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
)

// adminFront stands before the admin listener, so that the page's address stays when the server
// behind it is another one. behind holds the address of that listener; "": the server is down.
func adminFront(t *testing.T, r *rig) (origin string, behind *atomic.Value) {
	behind = new(atomic.Value)
	behind.Store(r.admin)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", behind.Load().(string), p.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if behind.Load() == "" {
			panic(http.ErrAbortHandler) // the connection is cut
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(front.Close)
	return front.URL, behind
}

// statusOf is an expression: the status that the page's table shows for a device, with its seq.
func statusOf(device any) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#rows tr")].filter(r => r.querySelector("code").textContent === "%v")
		.map(r => r.querySelector(".status").textContent + " " + r.querySelector(".number").textContent).join()`, device)
}

// TestBrowserPage: what an operator sees. A device goes online, sends heartbeats and expires; the
// plots move; the server goes and comes back.
func TestBrowserPage(t *testing.T) {
	r := startServer(t, "--dev")
	b := startBrowser(t)
	admin, behind := adminFront(t, r)
	dev := newBeat()

	b.do(chromedp.Navigate(admin + "/?user=" + dev["user_id"].(string)))
	b.until(`document.querySelector("#state").textContent === "Ready"`)
	b.until(`document.querySelector("#following").dataset.state === "live"`)

	r.mustBeat(dev)
	b.until(statusOf(dev["device_id"]) + ` === "online 1"`)
	r.mustBeat(dev.with("seq", 2))
	b.until(statusOf(dev["device_id"]) + ` === "online 2"`)
	r.mustBeat(dev.with("seq", 3).with("ttl_ms", 1000))
	b.until(statusOf(dev["device_id"]) + ` === "offline 3"`)
	b.until(`document.querySelector("#changes li").textContent.endsWith("went offline: expired after 1 s")`)
	b.until(`document.querySelector("#table-caption").textContent === "1 device, 0 online"`)

	const line = `document.querySelector("#cards .line0").getAttribute("d")`
	b.until(line + `.includes("L")`) // a line, not a dot
	before := b.eval(line)
	b.until(line + ` !== ` + fmt.Sprintf("%q", before))
	b.checkAccessible()
	b.checkQuiet(admin, "http://"+r.addr)

	behind.Store("")
	b.until(`document.querySelector("#state").dataset.state === "lost"`)
	r.kill()
	r.start() // elsewhere, with the same data
	behind.Store(r.admin)
	b.until(`document.querySelector("#state").textContent === "Ready"`)
	b.until(fmt.Sprintf(`document.querySelector("#base").value === "http://%s"`, r.addr))
	b.do(chromedp.Click(chromedp.CSS("#go")))
	b.until(statusOf(dev["device_id"]) + ` === "offline 3"`)
	r.mustBeat(dev.with("seq", 4))
	b.until(statusOf(dev["device_id"]) + ` === "online 4"`)
}

// TestBrowserPageUsers: the users that changed last, a search by id, status and source, and the way
// from a user to its devices and what they make of it.
func TestBrowserPageUsers(t *testing.T) {
	r := startServer(t, "--dev")
	b := startBrowser(t)
	laptop := newBeat().with("source", "laptop").with("ttl_ms", 600_000)
	phone := newBeat().with("source", "phone").with("ttl_ms", 600_000).with("user_id", laptop["user_id"])
	old := newBeat().with("source", "old laptop").with("status", "offline")
	for _, d := range []beat{old, laptop, phone} {
		r.mustBeat(d)
	}
	user, other := laptop["user_id"].(string), old["user_id"].(string)
	const listed = `[...document.querySelectorAll("#user-rows code")].map((e) => e.textContent).join()`
	set := func(field, value string) {
		b.eval(fmt.Sprintf(`(() => {
			const field = document.querySelector("#search-%s");
			field.value = %q;
			field.dispatchEvent(new Event("input", {bubbles: true}));
		})()`, field, value))
	}

	b.do(chromedp.Navigate("http://" + r.admin + "/"))
	b.until(fmt.Sprintf(`%s === "%s,%s"`, listed, user, other))
	b.until(`document.querySelector("#users-caption").textContent.startsWith("2 users, the last changed first")`)
	set("status", "offline")
	b.until(fmt.Sprintf(`%s === "%s"`, listed, other))
	set("status", "")
	set("source", "PHONE")
	b.until(fmt.Sprintf(`%s === "%s"`, listed, user))
	set("source", "nothing like it")
	b.until(listed + ` === "" && document.querySelector("#users-caption").textContent.startsWith("No user that matches")`)
	set("source", "")
	set("id", other[:7])
	b.until(fmt.Sprintf(`%s === "%s"`, listed, other))
	set("id", "bob") // the form says what is wrong, and nothing is asked
	b.until(`!document.querySelector("#search").checkValidity()`)
	set("id", user)
	b.until(fmt.Sprintf(`%s === "%s"`, listed, user))
	b.checkAccessible()
	b.do(chromedp.Click(chromedp.CSS("#user-rows button")))
	b.until(statusOf(laptop["device_id"]) + ` === "online 1"`)
	b.until(`document.querySelector("#aggregate").textContent.startsWith("The user is online, with 2 of 2 devices online; last seen ")`)
	r.mustBeat(phone.with("seq", 2).with("status", "offline"))
	b.until(`document.querySelector("#aggregate").textContent.startsWith("The user is online, with 1 of 2 devices online; last seen ")`)
	b.checkAccessible()
	if dir := os.Getenv("ROLLCALL_LOOK"); dir != "" {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 360} {
				b.view(scheme, width, 1700)
				shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
				if err == nil {
					err = os.WriteFile(fmt.Sprintf("%s/%s%d.png", dir, scheme, width), shot, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	b.checkQuiet("http://"+r.admin, "http://"+r.addr)
}

// TestBrowserPageInProduction: no token is given, so the operator pastes one; a refusal is told in
// the server's words.
func TestBrowserPageInProduction(t *testing.T) {
	r := startServer(t, "--environment=production")
	b := startBrowser(t)
	user := uuid.NewString()
	dev := newBeat().with("user_id", user)
	r.mustBeat(dev)

	b.do(chromedp.Navigate("http://" + r.admin + "/?user=" + user))
	b.until(`document.querySelector("#token").required && document.querySelector("#base").value`)
	fill := func(token string) {
		b.do(chromedp.SetValue(chromedp.CSS("#user"), user),
			chromedp.SetValue(chromedp.CSS("#token"), token), chromedp.Click(chromedp.CSS("#go")))
	}
	fill(tokenFor(user, time.Hour))
	b.until(statusOf(dev["device_id"]) + ` === "online 1"`)
	b.checkQuiet("http://"+r.admin, "http://"+r.addr)
	fill(tokenFor(uuid.NewString(), time.Hour))
	b.until(`document.querySelector("#following").textContent === "Token user mismatch (403)"`)
}

// TestBrowserPageWithAdminToken: the page asks for the token, says that a wrong one is none, and
// keeps the right one in the tab: behind it all works, a reload included.
func TestBrowserPageWithAdminToken(t *testing.T) {
	r := startServer(t, "--admin-token-file="+adminTokenFile(t))
	b := startBrowser(t)
	dev := newBeat()
	r.mustBeat(dev)

	b.do(chromedp.Navigate("http://" + r.admin + "/?user=" + dev["user_id"].(string)))
	fill := func(token string) {
		b.until(`!document.querySelector("#unlock").hidden`)
		b.do(chromedp.SetValue(chromedp.CSS("#admin-token"), token), chromedp.Click(chromedp.CSS("#unlock-go")))
	}
	b.until(`document.querySelector("#state").dataset.state === "locked"`)
	b.checkAccessible()
	fill("a-wrong-token")
	b.until(`document.querySelector("#admin-token-hint").textContent === "Not one of its tokens."`)
	fill(adminToken)
	b.until(`document.querySelector("#state").textContent === "Ready"`)
	b.until(statusOf(dev["device_id"]) + ` === "online 1"`)
	b.do(chromedp.Reload())
	b.until(`document.querySelector("#state").textContent === "Ready"`)
	b.until(statusOf(dev["device_id"]) + ` === "online 1"`)
	b.until(`document.querySelector("#unlock").hidden`)
}

// accessibility lists what a screen reader or weak eyes would stumble over; each entry names the
// element.
const accessibility = `(() => {
	const wrong = [], all = (s) => [...document.querySelectorAll(s)];
	const want = (ok, e, what) => ok || wrong.push(what + ": " + e.outerHTML.slice(0, 120));
	want(document.documentElement.lang && document.title, document.documentElement, "no language or title");
	all("input").forEach((e) => want(e.labels.length === 1, e, "no label"));
	all("button, a").forEach((e) => want(e.textContent.trim(), e, "no name"));
	all("svg").forEach((e) => want(e.getAttribute("role") === "img" && e.getAttribute("aria-label"), e, "a picture without a text"));
	all("meter").forEach((e) => want(e.getAttribute("aria-label"), e, "a meter without a name"));
	all("th").forEach((e) => want(e.scope, e, "no scope"));
	all("table").forEach((e) => want(e.caption, e, "no caption"));
	all("[aria-labelledby], [aria-describedby]").forEach((e) => want(document.getElementById(e.getAttribute("aria-labelledby") ?? e.getAttribute("aria-describedby")), e, "points at nothing"));
	all("[id]").forEach((e) => want(all("#" + e.id).length === 1, e, "not the only one"));
	all("main, h1").forEach((e) => want(all(e.tagName).length === 1, e, "not the only one"));
	all("h1, h2, h3").reduce((level, e) => { const l = Number(e.tagName[1]); want(l <= level + 1, e, "skips a level"); return l; }, 0);
	want(document.documentElement.scrollWidth <= innerWidth, document.body, "scrolls sideways");
	const rgb = (c) => c.match(/[\d.]+/g).map(Number);
	const ground = (e) => { const c = rgb(getComputedStyle(e).backgroundColor); return c[3] === 0 ? ground(e.parentElement) : c; };
	const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, noscript")) continue;
		const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
		want((a + 0.05) / (b + 0.05) >= 4.5, e, "contrast " + ((a + 0.05) / (b + 0.05)).toFixed(2));
	}
	return wrong.join("\n");
})()`

// checkAccessible looks at the page in both colour schemes, wide and on a phone.
func (b *browser) checkAccessible() {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 360} {
			b.view(scheme, width, 900)
			if wrong := b.eval(accessibility); wrong != "" {
				b.t.Errorf("%s, %d pixels wide:\n%s", scheme, width, wrong)
			}
		}
	}
}

// view sets the colour scheme and the size of the window.
func (b *browser) view(scheme string, width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// TestBrowserEventSource: the browser's own EventSource, which can set no header, follows with
// --stream-query-token, and only from the pages that --cors-origin names.
func TestBrowserEventSource(t *testing.T) {
	blank := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") })
	ours, other := httptest.NewServer(blank), httptest.NewServer(blank)
	defer ours.Close()
	defer other.Close()
	b := startBrowser(t)
	r := startServer(t, "--stream-query-token", "--cors-origin="+ours.URL)
	dev := newBeat().with("ttl_ms", 500)
	user := dev["user_id"].(string)
	follow := fmt.Sprintf(`(() => {
		window.seen = [];
		const source = new EventSource("http://%s%s?user_id=%s&access_token=%s");
		source.onopen = () => seen.push("open");
		source.onmessage = (event) => seen.push(JSON.parse(event.data).status);
		source.onerror = () => { seen.push("error"); source.close(); };
	})()`, r.addr, streamPath, user, tokenFor(user, time.Hour))

	b.do(chromedp.Navigate(ours.URL))
	b.eval(follow)
	b.until(`seen.join(" ") === "open"`)
	r.mustBeat(dev)
	b.until(`seen.join(" ") === "open online offline"`)

	b.do(chromedp.Navigate(other.URL))
	b.eval(follow)
	b.until(`seen.join(" ") === "error"`)
}

// TestBrowserScreenshot makes the picture of the README: `make screenshot`.
func TestBrowserScreenshot(t *testing.T) {
	path := os.Getenv("ROLLCALL_SCREENSHOT")
	if path == "" {
		t.Skip("set ROLLCALL_SCREENSHOT to where the picture shall go; `make screenshot` does")
	}
	r := startServer(t, "--dev")
	b := startBrowser(t)
	load := exec.Command(binary, "load", "--target=http://"+r.addr, "--quiet", "--users=2000", "--devices-per-user=2", "--interval=4s",
		"--ttl=6s", "--arrivals=poisson", "--silent-share=0.3", "--streams-per-user=0.2", "--duration=3m")
	load.Env = append(os.Environ(), r.env...)
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer load.Wait()
	defer load.Process.Kill()

	b.view("light", 1060, 1450)
	user := uuid.NewString()
	b.do(chromedp.Navigate("http://" + r.admin + "/?user=" + user))
	devices := []beat{newBeat().with("source", "laptop").with("ttl_ms", 12000), newBeat().with("source", "phone").with("ttl_ms", 6000),
		newBeat().with("source", "desktop").with("ttl_ms", 3000)}
	for second := 1; second <= 110; second++ {
		for i, d := range devices {
			if second%(2+3*i) == 0 {
				r.mustBeat(d.with("user_id", user).with("seq", second).with("sent_at_ms", time.Now().UnixMilli()))
			}
		}
		b.do(chromedp.Sleep(time.Second))
	}
	shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if shot, err = smaller(shot); err == nil {
		err = os.WriteFile(path, shot, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(shot) > 200<<10 {
		t.Errorf("%s has %d bytes, more than 200 KiB", path, len(shot))
	}
}

// smaller encodes a picture again, in its 256 most frequent colours.
func smaller(picture []byte) ([]byte, error) {
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	seen := map[color.Color]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			seen[img.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(seen),
		func(a, b color.Color) int { return seen[b] - seen[a] })
	few := image.NewPaletted(img.Bounds(), colors[:min(256, len(colors))])
	draw.Draw(few, few.Rect, img, image.Point{}, draw.Src)
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few)
	return out.Bytes(), err
}
