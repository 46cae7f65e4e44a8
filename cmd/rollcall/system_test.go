package main

import (
	"runtime"
	"strings"
	"testing"
)

func TestServingSystems(t *testing.T) {
	for _, system := range []string{"linux", "darwin", "freebsd"} {
		if err := serves("serve", system); err != nil {
			t.Errorf("%s: %v", system, err)
		}
	}
	for _, command := range []string{"serve", "backup"} {
		err := serves(command, "windows")
		if err == nil {
			t.Fatalf("%s runs on windows", command)
		}
		for _, want := range []string{"rollcall " + command, "linux, darwin, freebsd",
			"not on windows", "inspect"} {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is not one line that says %q", err, want)
			}
		}
	}
	if err := needsServingSystem("serve"); (err == nil) == (runtime.GOOS == "windows") {
		t.Errorf("on this system: %v", err)
	}
}
