package option_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"rollcall/internal/option"
)

func TestDefault(t *testing.T) {
	unset, set := 0, 3
	option.Default(&unset, 7)
	option.Default(&set, 7)
	if unset != 7 || set != 3 {
		t.Errorf("got %d and %d, want 7 and 3", unset, set)
	}
}

func TestProblemsAreReportedAtOnce(t *testing.T) {
	p := option.Problems{Package: "server"}
	option.NotNegative(&p, "MaxBatch", 0)
	if err := p.Err(); err != nil {
		t.Fatalf("no problem, but %v", err)
	}
	option.NotNegative(&p, "ReadTimeout", -time.Second)
	option.NotNegative(&p, "RatePerIP", math.NaN())
	p.When(true, "Sync is %q", "sometimes")
	p.When(false, "never said")
	p.Add(nil)
	p.Add(errors.New("part: option Size is missing"))
	want := "server: option ReadTimeout is -1s: it cannot be negative\n" +
		"server: option RatePerIP is NaN: it cannot be negative\n" +
		"server: option Sync is \"sometimes\"\n" +
		"part: option Size is missing"
	if got := p.Err().Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
