package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
	"rollcall/server"
)

func mustResident(b *testing.B) int64 {
	resident, err := residentBytes()
	if err != nil {
		b.Fatal(err)
	}
	return resident
}

// BenchmarkMemory is what each device takes, all told: table, wheel, and what the Go runtime needs
// beside them. An operation is nothing; run it with -benchtime 1x.
func BenchmarkMemory(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		for _, perUser := range []int{1, 10} {
			b.Run(fmt.Sprintf("per-user=%d", perUser), func(b *testing.B) {
				before := mustResident(b)
				l := &noLog{}
				e := startEngine(b, l, engine.Options{})
				defer e.Close(context.Background())
				fillBatches(b, e, size, perUser)
				for b.Loop() {
				}
				b.ReportMetric(float64(mustResident(b)-before)/float64(size), "RSS-B/device")
				b.ReportMetric(float64(collectionCPU().Microseconds())/1000, "gc-ms")
			})
		}
	})
}

// BenchmarkIdleConn is what the server holds for a daemon's connection that sent a heartbeat and is
// kept open: in a loop, and after its goroutine and buffers have gone. The clients are bare
// descriptors, which cost this process nothing but the kernel's memory. Run it with -benchtime 1x.
func BenchmarkIdleConn(b *testing.B) {
	const conns, first = 8000, 1000
	b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
		fds := make([]int, 0, conns)
		defer func() {
			for _, fd := range fds {
				syscall.Close(fd)
			}
		}()
		e := startEngine(b, &noLog{}, engine.Options{})
		defer e.Close(context.Background())
		metrics := prometheus.NewRegistry()
		s, err := server.New(e, server.Options{IngestTokens: []string{"t"},
			Logger: slog.New(slog.DiscardHandler), Registry: metrics})
		if err != nil {
			b.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = s.Serve(ln) }()
		defer ln.Close()
		target := &syscall.SockaddrInet4{Port: ln.Addr().(*net.TCPAddr).Port,
			Addr: [4]byte{127, 0, 0, 1}}
		goroutines := runtime.NumGoroutine()
		open := func(from, to int) (resident int64) {
			for n := from; n < to; n++ {
				fds = append(fds, beatOnce(b, target, n+1))
			}
			// fasthttp keeps idle goroutines for ten seconds.
			for runtime.NumGoroutine() > goroutines+10 || gauge(b, metrics, "rollcall_http_connections_parked") < float64(to) {
				time.Sleep(100 * time.Millisecond)
			}
			return mustResident(b)
		}
		before := open(0, first) // what the first ones make is not each one's
		after := open(first, conns)
		for b.Loop() {
		}
		b.ReportMetric(float64(after-before)/(conns-first), "RSS-B/conn")
	})
}

func gauge(b *testing.B, metrics prometheus.Gatherer, name string) float64 {
	families, err := metrics.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	b.Fatalf("no metric %s", name)
	return 0
}

// beatOnce connects, sends a heartbeat of the one device, whose seq is n, and reads the answer. The
// connection stays open.
func beatOnce(b *testing.B, target syscall.Sockaddr, n int) (fd int) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := syscall.Connect(fd, target); err != nil {
		b.Fatal(err)
	}
	body := fmt.Sprintf(`{"schema_version":1,"user_id":"11111111-2222-4222-8222-333333333333","device_id":"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",`+
		`"status":"online","source":"bench","sent_at_ms":1,"seq":%d,"ttl_ms":9007199254740991}`, n)
	request := fmt.Sprintf("POST /api/v1/daemon/presence/heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 512)
	got, err := syscall.Read(fd, answer)
	if err != nil || !strings.HasPrefix(string(answer[:got]), "HTTP/1.1 204") {
		b.Fatalf("%v %s", err, answer[:got])
	}
	return fd
}
