// Package table holds the state of every known device in memory.
package table
