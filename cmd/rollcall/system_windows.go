package main

import (
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/windows"
)

// createForOwner does nothing: no command that makes a data directory runs on Windows.
func createForOwner() {}

// ownedByThisUser returns false: no command that asks runs on Windows.
func ownedByThisUser(os.FileInfo) bool { return false }

// descriptorLimit returns false: Windows has no limit that a process could ask for.
func descriptorLimit() (uint64, bool) { return 0, false }

func raiseDescriptorLimit(uint64) bool { return false }

// processorTime returns false: no server runs on Windows.
func processorTime() (time.Duration, bool) { return 0, false }

// terminalColumns returns the width of a console, 0 when f is none.
func terminalColumns(f *os.File) int {
	var console windows.ConsoleScreenBufferInfo
	if windows.GetConsoleScreenBufferInfo(windows.Handle(f.Fd()), &console) != nil {
		return 0
	}
	return int(console.Window.Right-console.Window.Left) + 1
}

// shellCommand returns a command that the system's shell runs.
func shellCommand(text string) *exec.Cmd { return exec.Command("cmd", "/C", text) }

// ownGroup does nothing: no command that asks for it runs on Windows.
func ownGroup(*exec.Cmd) {}
