package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/engine"
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

// BenchmarkIdleConn is what the whole server holds for a daemon's connection that sent a heartbeat
// and is kept open: in a loop, and after its goroutine and buffers have gone. The server is a
// process of its own; the clients are bare descriptors, which cost nothing but the kernel's memory.
// Run it with -benchtime 1x.
func BenchmarkIdleConn(b *testing.B) {
	const conns, first = 18_000, 2000 // twenty thousand descriptors are what some systems allow
	b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
		fds := make([]int, 0, conns)
		defer func() {
			for _, fd := range fds {
				syscall.Close(fd)
			}
		}()
		s := startRole(b, "server")
		addr, err := net.ResolveTCPAddr("tcp", s.hear(b))
		if err != nil {
			b.Fatal(err)
		}
		target := &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}
		settle := func() (resident, goroutines int64) {
			if _, err := fmt.Sscan(s.ask(b, "settle"), &resident, &goroutines); err != nil {
				b.Fatal(err)
			}
			return resident, goroutines
		}
		_, idle := settle()
		open := func(from, to int) int64 {
			for n := from; n < to; n++ {
				fds = append(fds, beatOnce(b, target, n+1))
			}
			// fasthttp keeps idle goroutines for ten seconds.
			for {
				if resident, goroutines := settle(); goroutines <= idle+10 {
					return resident
				}
				time.Sleep(time.Second)
			}
		}
		before := open(0, first) // what the first ones make is not each one's
		after := open(first, conns)
		for b.Loop() {
		}
		b.ReportMetric(float64(after-before)/(conns-first), "RSS-B/conn")
	})
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
