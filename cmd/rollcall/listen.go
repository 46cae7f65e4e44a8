package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// unixPrefix marks the address of a Unix socket.
const unixPrefix = "unix:"

// listenPublic opens the public listener: HOST:PORT, or unix:PATH with the given permissions in
// octal digits.
func listenPublic(address, mode string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, unixPrefix)
	if !ok {
		return net.Listen("tcp", address)
	}
	permissions, err := socketMode(mode)
	if err != nil {
		return nil, err
	}
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Until here the socket has the permissions that the umask left. With any usual umask these are
	// fewer.
	if err := os.Chmod(path, permissions); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// adminIsOpen reports whether other machines reach the operators' listener without a token.
func (c serveCmd) adminIsOpen() bool {
	a, err := net.ResolveTCPAddr("tcp", c.AdminListen)
	return err == nil && !a.IP.IsLoopback() && c.AdminTokenFile == "" // listening has the error
}

// checkAdmin refuses an operators' listener that others than this machine reach and that asks for
// no token.
func (c serveCmd) checkAdmin() error {
	if c.AdminOpen || !c.adminIsOpen() {
		return nil
	}
	return fmt.Errorf("--admin-listen %s can be reached from other machines, and shows every user's "+
		"presence, metrics and profiles: give --admin-token-file, or a loopback address, or "+
		"--admin-open if the network is closed to others", c.AdminListen)
}

func socketMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("--socket-mode must be octal digits up to 777, not %q", text)
	}
	return fs.FileMode(n), nil
}

// removeStaleSocket removes the socket that a killed server left behind. It touches nothing else,
// and no socket on which a process listens.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errNoSocket(path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("another process listens on %s: stop it, or give another path", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot find out whether a process listens on %s: %w", path, err)
	}
	return os.Remove(path)
}

// checkSocketPath finds out whether a socket can be made there.
func checkSocketPath(path string) error {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if !dir.IsDir() {
		return fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return errNoSocket(path)
	}
	return nil
}

func errNoSocket(path string) error {
	return fmt.Errorf("%s exists and is not a socket: remove it, or give another path", path)
}

// listenName is the address as --listen has it.
func listenName(ln net.Listener) string {
	if ln.Addr().Network() == "unix" {
		return unixPrefix + ln.Addr().String()
	}
	return ln.Addr().String()
}
