package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"rollcall/engine"
)

// TestAdvice is added to what packages report, and keeps the error.
func TestAdvice(t *testing.T) {
	for sentinel, want := range map[error]string{
		engine.ErrLogShort:      "restore the data directory from a backup",
		engine.ErrTableTooSmall: "raise --max-devices",
	} {
		got := advise(fmt.Errorf("engine: recovery: %w", sentinel))
		if !errors.Is(got, sentinel) || !strings.HasSuffix(got.Error(), want) {
			t.Errorf("%v", got)
		}
	}
	other := errors.New("other")
	if got := advise(other); got != other {
		t.Errorf("%v", got)
	}
	if got := advise(nil); got != nil {
		t.Errorf("%v", got)
	}
}
