package docblock

import "testing"

func TestReplace(t *testing.T) {
	const page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
	got, err := Replace(page, "x", "new\n")
	if want := "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, broken := range []string{"", "<!-- x -->\n", "<!-- end of x -->\n<!-- x -->\n"} {
		if got, err := Replace(broken, "x", "new\n"); err == nil {
			t.Errorf("%q became %q", broken, got)
		}
	}
}
