package main

import (
	"strings"
	"testing"
)

// TestLoadRefusesWrongOptions before it loads anything: all of them at once, by their flags.
func TestLoadRefusesWrongOptions(t *testing.T) {
	t.Setenv(ingestTokenEnv, "ingest")
	err := loadRunCmd{
		Target: []string{"http://127.0.0.1:1"}, NoVerify: true, Duration: -1,
		Lists: -1, ListTokenTTL: -1, FlipShare: -1,
		WorseLatency: -0.1, WorseRate: -0.1, CompareFloorMS: -0.1,
	}.Run()
	if err == nil {
		t.Fatal("it ran")
	}
	for _, want := range []string{"(--duration)", "(--lists)", "(--list-token-ttl)",
		"(--flip-share)", "(--worse-latency)", "(--worse-rate)",
		"(--compare-floor-ms)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %s", err, want)
		}
	}
}
