package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"rollcall/bench/raw"
)

// machine describes where this runs, without a name of it.
func machine() raw.Head {
	h := raw.Head{
		Commit: output("git", "rev-parse", "--short=12", "HEAD"),
		Date:   time.Now().UTC().Format(time.DateOnly),
		Go:     runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		CPU:    fieldOf("/proc/cpuinfo", "model name"),
		Cores:  runtime.NumCPU(),
		Memory: fieldOf("/proc/meminfo", "MemTotal"),
		// Without the builder's own suffix.
		Kernel:     first(output("uname", "-s")+" "+output("uname", "-r"), "-"),
		FileSystem: output("findmnt", "-n", "-o", "FSTYPE", "-T", os.TempDir()),
	}
	if output("git", "status", "--porcelain", "--", "..", ":!../bench/results", ":!../docs") != "" {
		h.Commit += " with changes"
	}
	var kb float64
	if _, err := fmt.Sscanf(h.Memory, "%f kB", &kb); err == nil {
		h.Memory = fmt.Sprintf("%.0f GiB", kb/(1<<20))
	}
	return h
}

// loadAverage is of the last minute.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return first(string(text), " ")
}

// output is what a command prints, or nothing where there is no such command.
func output(name string, args ...string) string {
	out, _ := exec.Command(name, args...).Output()
	return strings.TrimSpace(string(out))
}

func fieldOf(file, key string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func first(s, until string) string {
	s, _, _ = strings.Cut(s, until)
	return s
}
