package main

import (
	"strings"
	"testing"
)

// TestDevPrintsThePage: a newcomer needs two commands: `rollcall serve --dev`, and the heartbeat
// that it prints.
func TestDevPrintsThePage(t *testing.T) {
	var out strings.Builder
	if err := printCurlLines(&out, "http", "127.0.0.1:1", "127.0.0.1:2", "ingest",
		"key"); err != nil {
		t.Fatal(err)
	}
	if want := "\nhttp://127.0.0.1:2/?user=" + devUser.String() +
		"#devices\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no line %q in\n%s", want, &out)
	}
}
