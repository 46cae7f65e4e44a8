//go:build race

package loadgen

const underRace = true
