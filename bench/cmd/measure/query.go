package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/wire"
)

const (
	asked       = 1000 // users of a query
	askers      = 8    // connections
	queryRounds = 5
	queryTime   = time.Second
)

// query is queries of a thousand users with two devices each, beside a bare server that reads the
// same request and sends as many bytes, in rounds that take turns.
func (m *measurement) query() (lines []string, err error) {
	s, done, err := m.startRollcall(port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := newReporter(s.address).introduce(asked, 2); err != nil {
		return nil, err
	}
	body := listBody(userIDs(0, asked, asked))
	request := fmt.Appendf(nil, "POST "+wire.QueryPath+" HTTP/1.1\r\nHost: bench\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		readerToken(0), len(body), body)
	size, err := askOnce(s.address, request)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bareAddress := fmt.Sprintf("127.0.0.1:%d", otherPort)
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bare, err := startServer(exec.Command(self, "-serve-bytes", strconv.Itoa(size),
		"-serve-on", bareAddress), "bare fasthttp", bareAddress, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	var ours, beside, ratios, cpu, bareCPU []float64
	ask := func(s *server) (rate, cpu float64, err error) {
		before := s.cpu()
		rate, err = askAll(s.address, request, size)
		return rate, (s.cpu() - before) / (rate * queryTime.Seconds()) * 1e6, err
	}
	for range queryRounds {
		a, used, err := ask(s)
		if err != nil {
			return nil, err
		}
		b, bareUsed, err := ask(bare)
		if err != nil {
			return nil, err
		}
		cpu, bareCPU = append(cpu, used), append(bareCPU, bareUsed)
		ours, beside, ratios = append(ours, a), append(beside, b), append(ratios, a/b)
	}
	return []string{fmt.Sprintf("BenchmarkLists/figure=query/users=%d/devices=2 1 %.0f queries/s "+
		"%.0f bare-queries/s %.3f ratio %d B/answer %.0f cpu-us/query %.0f bare-cpu-us/query", asked,
		middle(ours), middle(beside), middle(ratios), size, middle(cpu), middle(bareCPU))}, nil
}

// serveBytes answers everything with so many bytes.
func serveBytes(addr string, size int) error {
	body := bytes.Repeat([]byte("x"), size)
	s := fasthttp.Server{
		Handler:            func(ctx *fasthttp.RequestCtx) { ctx.SetBody(body) },
		MaxRequestBodySize: 1 << 20,
	}
	return s.ListenAndServe(addr)
}

// askAll asks on some connections at once, each as soon as it has the answer, and returns the rate.
func askAll(addr string, request []byte, size int) (float64, error) {
	var answered atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, askers)
	began := time.Now()
	for i := range askers {
		group.Go(func() {
			var a *asker
			if a, errs[i] = newAsker(addr); errs[i] != nil {
				return
			}
			defer a.conn.Close()
			for time.Since(began) < queryTime {
				var n int
				if n, errs[i] = a.ask(request); errs[i] != nil {
					return
				}
				if n != size {
					errs[i] = fmt.Errorf("an answer has %d bytes, not %d", n, size)
					return
				}
				answered.Add(1)
			}
		})
	}
	group.Wait()
	return float64(answered.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

func askOnce(addr string, request []byte) (size int, err error) {
	a, err := newAsker(addr)
	if err != nil {
		return 0, err
	}
	defer a.conn.Close()
	return a.ask(request)
}

// asker is a connection of queries.
type asker struct {
	conn net.Conn
	read *bufio.Reader
}

func newAsker(addr string) (*asker, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &asker{conn, bufio.NewReaderSize(conn, 256<<10)}, nil
}

// ask returns the size of the answer's body, which it drops.
func (a *asker) ask(request []byte) (size int, err error) {
	if _, err := a.conn.Write(request); err != nil {
		return 0, err
	}
	for first := true; ; first = false {
		line, err := a.read.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return 0, fmt.Errorf("a query was answered %q", line)
		}
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if size, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		}
		if len(name) == 0 {
			break
		}
	}
	_, err = io.CopyN(io.Discard, a.read, int64(size))
	return size, err
}
