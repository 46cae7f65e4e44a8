package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
)

// friends are the contacts of the example, client/ts/example.
var friends = map[string]string{
	"Ann": "0e5d6f3c-7a11-4b52-8c9e-3f2a1b0c9d8e",
	"Ben": "1f6e7a4d-8b22-4c63-9dad-4a3b2c1dae9f",
}

// startContacts runs the backend of the example for the server at addr, and returns its address.
func startContacts(t *testing.T, addr string) string {
	for _, file := range []string{"dist/mint.js", "dist/rollcall.js", "node_modules/react/package.json"} {
		if _, err := os.Stat("../client/ts/" + file); err != nil {
			needs(t, "node and `make client-ts`: ", err)
		}
	}
	cmd := exec.Command("node", "../client/ts/example/server.mjs")
	lines := run(t, cmd, append(os.Environ(), "ROLLCALL_URL=http://"+addr, "PORT=0", "LINGER_MS=1",
		signingKeyEnv+"="+signingKey))
	return strings.TrimSuffix(receive(t, lines, "the example's address"), "/")
}

// shows is an expression: what the list shows of a contact, its status and its note.
func shows(name, want string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("li")].some(li => li.innerText.startsWith(%q) &&
		[li.className, li.querySelector("small").innerText].join(" ").startsWith(%q))`, name, want)
}

// TestBrowserContacts: the example of docs/clients.md in a browser. Dots turn green and grey, a
// contact that is hidden and shown again comes back, and a server that restarts interrupts the list
// and nothing else.
func TestBrowserContacts(t *testing.T) {
	t.Parallel()
	r := startServer(t, "--drain-timeout=100ms")
	f := forward(t, r.addr)
	b := startBrowser(t)
	page := startContacts(t, f.Addr().String())
	beat := func(name string, device uuid.UUID, status string, seq int) {
		t.Helper()
		r.mustBeat(newBeat().with("user_id", friends[name]).with("device_id", device.String()).
			with("status", status).with("seq", seq).with("ttl_ms", 600_000))
	}
	state := func(want string) string {
		return fmt.Sprintf(`document.querySelector("ul")?.dataset.state === %q`, want)
	}
	phone, laptop := uuid.New(), uuid.New()

	b.do(chromedp.Navigate(page))
	b.until(state("synced"))
	b.until(shows("Ann", "offline ") + "&&" + shows("Ben", "offline ") + "&&" + shows("Cem", "offline "))
	beat("Ann", phone, "online", 1)
	b.until(shows("Ann", "online"))
	beat("Ann", laptop, "online", 1)
	b.until(shows("Ann", "online on 2 devices"))
	beat("Ben", phone, "online", 1)
	b.until(shows("Ben", "online"))
	beat("Ben", phone, "offline", 2)
	b.until(shows("Ben", "offline last seen "))

	const button = `document.querySelector("button").click() ?? true`
	b.until(button)
	b.until(`document.querySelectorAll("li").length === 1 && ` + state("synced") + "&&" +
		shows("Ann", "online on 2 devices"))
	beat("Ben", phone, "online", 3)
	b.until(button)
	b.until(state("synced") + "&&" + shows("Ben", "online") + "&&" + shows("Cem", "offline "))
	b.checkQuiet(page, "http://"+f.Addr().String())

	r.kill()
	b.until(state("interrupted") + "&&" + shows("Ann", "online on 2 devices"))
	r.start()
	beat("Ann", laptop, "offline", 2)
	f.to.Store(r.addr)
	b.until(state("synced") + "&&" + shows("Ann", "online") + "&&" + shows("Ben", "online"))
	beat("Ann", phone, "offline", 2)
	b.until(shows("Ann", "offline last seen "))
}
