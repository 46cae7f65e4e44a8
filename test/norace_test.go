//go:build !race

package test

// raceFlag builds the server with the race detector when the tests are.
var raceFlag []string
