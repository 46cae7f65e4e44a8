package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// releaseStartPages unmaps the pages of the program that the start has touched: initialization,
// flags, recovery, most of which are not run again. They are clean pages of a file, so that a page
// that is used again costs a minor fault and no read while the kernel has it in its cache. Of a
// server at rest that is two thirds of the resident memory, and most of what linked packages cost
// that it does not use. To be called once, when the start is over.
func releaseStartPages() {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(maps, program) {
		// an error leaves the pages where they are
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
}

type mapping struct{ from, to uintptr }

// cleanMappings returns where the file is mapped so that it cannot be written and nothing differs
// from the file: not what a dynamic linker relocated, and not code with a debugger's breakpoint,
// which would be lost.
func cleanMappings(smaps []byte, file string) (clean []mapping) {
	var m mapping
	ofFile := false
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		line := lines.Bytes()
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && !bytes.ContainsRune(key, ' ') {
			if ofFile && string(key) == "Anonymous" && string(bytes.TrimSpace(value)) == "0 kB" {
				clean = append(clean, m)
			}
			continue
		}
		var mode string
		n, _ := fmt.Sscanf(string(line), "%x-%x %s", &m.from, &m.to, &mode)
		ofFile = n == 3 && (mode == "r-xp" || mode == "r--p") &&
			bytes.HasSuffix(line, []byte(" "+file))
	}
	return clean
}
