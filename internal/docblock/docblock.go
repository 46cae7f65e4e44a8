// Package docblock rewrites the generated parts of a document. Such a part stands between the
// comments <!-- name --> and <!-- end of name -->; a test or a command writes it, and a gate
// compares it.
package docblock

import (
	"fmt"
	"strings"
)

// Replace returns the page with text in every part of this name. A text that is a block begins and
// ends with a line end.
func Replace(page, name, text string) (string, error) {
	open, end := "<!-- "+name+" -->", "<!-- end of "+name+" -->"
	var b strings.Builder
	for n := 0; ; n++ {
		before, rest, opened := strings.Cut(page, open)
		if !opened && n > 0 {
			return b.String() + page, nil
		}
		_, after, ended := strings.Cut(rest, end)
		if !opened || !ended {
			return "", fmt.Errorf("docblock: the page lacks %q and %q behind it: add them where the text belongs", open, end)
		}
		b.WriteString(before + open + text + end)
		page = after
	}
}
