package wire

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
)

// BenchmarkLines decodes the lines of a window, each of another device, as a gateway sends them:
// an operation is one line. Alike: lines differ in ids and seq; sent: in sent_at_ms too; source:
// in all but the ttl.
func BenchmarkLines(b *testing.B) {
	for _, vary := range []string{"alike", "sent", "source"} {
		b.Run("vary="+vary, func(b *testing.B) {
			var text []byte
			var ends []int
			for i := 0; len(text) < windowBytes; i++ {
				sent, source := 1_700_000_000_000, "daemon-do"
				if vary != "alike" {
					sent += i
				}
				if vary == "source" {
					source = fmt.Sprintf("host-%d", i)
				}
				text = fmt.Appendf(text, `{"schema_version":1,"user_id":"%s","device_id":"%s",`+
					`"status":"online","source":"%s","sent_at_ms":%d,"seq":%d,"ttl_ms":600000}`,
					uuid.New(), uuid.New(), source, sent, 1_700_000_000_000_000+i)
				ends = append(ends, len(text))
			}
			var d Decoder
			var hb Heartbeat
			b.ReportAllocs()
			b.SetBytes(int64(len(text) / len(ends)))
			for at, i := 0, 0; b.Loop(); i++ {
				if i == len(ends) {
					at, i = 0, 0
				}
				if d.Decode(text[at:ends[i]:ends[i]], &hb) != Valid {
					b.Fatal("refused")
				}
				at = ends[i]
			}
		})
	}
}
