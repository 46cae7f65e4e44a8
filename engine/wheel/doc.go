// Package wheel brings up references when their tick has come.
package wheel
