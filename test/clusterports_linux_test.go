package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestClusterPorts: a node listens where its flags say, and on one port of loopback that its log
// server does not start without. A local process that does not have the token, which is never
// written anywhere, can do nothing there, and cannot take more than some of the node's descriptors.
func TestClusterPorts(t *testing.T) {
	n := newNodes(t, nil)
	n.start()
	r := n.rigs[0]
	var more []string
	for _, addr := range r.listeners() {
		if addr != r.listen && addr != r.adminListen && addr != n.routes[0] {
			more = append(more, addr)
		}
	}
	if len(more) != 1 || !strings.HasPrefix(more[0], "127.0.0.1:") {
		t.Fatalf("it listens on %q, too", more)
	}
	told := tell(t, more[0], intrusion)
	if !strings.Contains(told, "Authorization Violation") || strings.Contains(told, "PONG") {
		t.Errorf("a local stranger is told %q", told)
	}

	const many = 300
	before := r.openDescriptors()
	for range many {
		conn, err := net.Dial("tcp", more[0])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The first line, or the end, says that the connection was accepted.
		_, _ = bufio.NewReader(conn).ReadString('\n')
	}
	if taken := r.openDescriptors() - before; taken > many/2 {
		t.Errorf("%d connections of a stranger took %d descriptors", many, taken)
	}
	b, seq := newBeat(), 0
	n.beats(b, &seq)
}

// listeners are the TCP addresses on which a server listens.
func (r *rig) listeners() (addrs []string) {
	r.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", r.proc.Cmd.Process.Pid)
	sockets := map[string]bool{}
	for _, fd := range r.descriptorsOf(proc) {
		if link, err := os.Readlink(fd); err == nil {
			sockets[link] = true
		}
	}
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(proc + file)
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			const listening = "0A"
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == listening && sockets["socket:["+f[9]+"]"] {
				addrs = append(addrs, kernelAddress(r.t, f[1]))
			}
		}
	}
	return addrs
}

// kernelAddress reads an address as /proc has it.
func kernelAddress(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	var ip net.IP
	for i := 0; i < len(host); i += 2 {
		b, err := strconv.ParseUint(host[i:i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		ip = append(ip, byte(b))
	}
	for i := 0; i < len(ip); i += 4 { // words are in the order of the machine
		slices.Reverse(ip[i : i+4])
	}
	return net.JoinHostPort(ip.String(), strconv.FormatUint(n, 10))
}

func (r *rig) descriptorsOf(proc string) []string {
	r.t.Helper()
	all, err := filepath.Glob(proc + "fd/*")
	if err != nil || len(all) == 0 {
		r.t.Fatal(all, err)
	}
	return all
}
