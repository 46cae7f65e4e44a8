package docblock

import "testing"

func TestReplace(t *testing.T) {
	const page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb <!-- y -->1<!-- end of y --> <!-- y -->2<!-- end of y -->\n"
	got, err := Replace(page, "x", "\nnew\n")
	if err == nil {
		got, err = Replace(got, "y", "3 s")
	}
	want := "a\n<!-- x -->\nnew\n<!-- end of x -->\nb <!-- y -->3 s<!-- end of y --> <!-- y -->3 s<!-- end of y -->\n"
	if got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, broken := range []string{"", "<!-- x -->\n", "<!-- end of x -->\n<!-- x -->\n"} {
		if got, err := Replace(broken, "x", "new\n"); err == nil {
			t.Errorf("%q became %q", broken, got)
		}
	}
}
