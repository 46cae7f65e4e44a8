package testseed_test

import (
	"testing"

	"rollcall/internal/testseed"
)

func TestRounds(t *testing.T) {
	want := 5
	if testing.Short() {
		want = 2
	}
	t.Setenv("ROLLCALL_SOME_ROUNDS", "")
	if n := testseed.Rounds(t, "ROLLCALL_SOME_ROUNDS", 2, 5); n != want {
		t.Errorf("%d, want %d", n, want)
	}
	t.Setenv("ROLLCALL_SOME_ROUNDS", "70")
	if n := testseed.Rounds(t, "ROLLCALL_SOME_ROUNDS", 2, 5); n != 70 {
		t.Errorf("%d, want what was given", n)
	}
}
