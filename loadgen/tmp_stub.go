package loadgen

import "time"

type watchState int

const (
	watchDown watchState = iota
	watchLive
)

type watch struct{ state watchState }

func newWatch(w *worker, u uint32) *watch { return &watch{} }

type verifier struct{}
type oracleRules struct{}
type oracle struct {
	rules        *Options
	examples     []string
	conflictsBad int64
}

func (o *oracle) protocol(f string, a ...any)       { panic(f) }
func (o *oracle) acceptedTwice(w *worker, f flight) {}
func (o *oracle) conflict(w *worker, f flight, body []byte) bool {
	s, ok := lastSeq(body)
	return !ok || s == w.run.seqBase+int64(f.number)
}
func (w *worker) checkWatches(int64) {}
func (w *worker) endLoad()           {}
func (w *worker) settled() bool {
	for _, l := range w.links {
		if l.flights.len() > 0 {
			return false
		}
	}
	return w.queue.len() == 0 && len(w.waiting) == 0 && len(w.timers) == 0
}
func (w *worker) judgeStreams()       {}
func (w *worker) beginVerify()        {}
func (w *worker) verified() bool      { return true }
func (w *worker) planEvents(at int64) {}
func fineTimers()                     {}

var _ = time.Second
