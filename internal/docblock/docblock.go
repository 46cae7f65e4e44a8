// Package docblock rewrites the generated parts of a document. Such a part stands between the lines
// <!-- name --> and <!-- end of name -->; a test or a command writes it, and a gate compares it.
package docblock

import (
	"fmt"
	"strings"
)

// Replace returns the page with text between the two comments of this name.
func Replace(page, name, text string) (string, error) {
	open, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, opened := strings.Cut(page, open)
	_, after, ended := strings.Cut(rest, end)
	if !opened || !ended {
		return "", fmt.Errorf("docblock: the page has no part %q: add the lines %q and %q",
			name, strings.TrimSpace(open), end)
	}
	return before + open + text + end + after, nil
}
