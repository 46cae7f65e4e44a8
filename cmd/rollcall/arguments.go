package main

import (
	"regexp"
	"strings"
)

// negative is a number or a duration below zero.
var negative = regexp.MustCompile(`^-\.?[0-9]`)

// joinNegatives writes "--flag -1" as "--flag=-1". Kong reads a word that begins with a hyphen as a
// flag. Its WithHyphenPrefixedParameters would take every such word for a value: with it,
// "--data-dir --sync=never" is a directory of that name. No flag of rollcall is a digit.
func joinNegatives(args []string) []string {
	var joined []string
	for i, arg := range args {
		if arg == "--" { // only arguments follow
			return append(joined, args[i:]...)
		}
		last := len(joined) - 1
		if negative.MatchString(arg) && last >= 0 && strings.HasPrefix(joined[last], "--") &&
			!strings.Contains(joined[last], "=") {
			joined[last] += "=" + arg
			continue
		}
		joined = append(joined, arg)
	}
	return joined
}
