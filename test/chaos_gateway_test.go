package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// chaosGateway speaks for devices of several users, and so of several partitions, in batches. Each
// batch has the next heartbeat of each device, or again one whose outcome is not known.
type chaosGateway struct {
	crowd *chaosCrowd
	rng   *rand.Rand
	lines []*chaosLine
}

// chaosLine is what a gateway sends of one device.
type chaosLine struct {
	device *chaosDevice
	seq    int64
	beat   chaosBeat
	open   bool // not known to be accepted
	over   bool // refused wrongly: its seqs mean nothing any more
}

func (g *chaosGateway) run() {
	for pause := chaosPause; g.crowd.rest(pause); {
		pause = chaosPause/2 + time.Duration(g.rng.Int64N(int64(chaosPause)))
		if g.rng.IntN(80) == 0 { // all go offline, but for the longest ttl
			pause = chaosTTLs[1] + 2*time.Second
		}
		if !g.send() {
			pause = 50 * time.Millisecond
		}
	}
}

// send sends one batch and reports whether every line is known to be accepted.
func (g *chaosGateway) send() bool {
	l := g.crowd.ledger
	var body strings.Builder
	var sent []*chaosLine
	for _, line := range g.lines {
		if line.over {
			continue
		}
		if !line.open {
			line.seq++
			line.open = true
			line.beat = chaosBeat{status: "online", sentMS: time.Now().UnixMilli(),
				ttl: chaosTTLs[len(sent)%len(chaosTTLs)]}
		}
		body.WriteString(line.device.body(line.seq, line.beat) + "\n")
		sent = append(sent, line)
	}
	written := l.now()
	for _, line := range sent {
		l.written(line.device, line.seq, line.beat, written)
	}
	status, answer, err := g.crowd.post(g.rng.IntN(len(g.crowd.nodes)), batchPath, body.String(),
		ingestToken)
	now := l.now()
	switch {
	case err != nil:
		l.count("batches cut, timed out or not connected", 1)
		return false
	case status == 503:
		l.count("batches answered 503", 1)
		return false
	case status != 200:
		l.found(ruleWire, "a batch is answered %d %q", status, answer)
		return false
	}
	lines, err := batchOutcome(answer, len(sent))
	if err != nil {
		l.found(ruleWire, "a batch of %d is answered %q: %v", len(sent), answer, err)
		return false
	}
	whole := true
	for i, line := range sent {
		switch lines[i].Status {
		case 204:
			l.accepted(line.device, line.seq, written, now)
			line.open = false
		case 409:
			line.open = false
			line.over = !l.conflict(line.device, line.seq, lines[i].Last, written, now)
		case 503:
			l.count("lines of batches answered 503", 1)
			whole = false
		default:
			l.found(ruleWire, "a line of a batch is answered %+v", lines[i])
			line.over = true
		}
	}
	return whole
}

// lineOutcome is what a batch's answer says of a line.
type lineOutcome struct {
	Line   int   `json:"line"`
	Status int   `json:"status"`
	Last   int64 `json:"last_seq"`
}

// batchOutcome reads the answer to a batch of less than a hundred lines, of which it lists all that
// were rejected.
func batchOutcome(answer []byte, n int) ([]lineOutcome, error) {
	var told struct {
		Accepted, Rejected int
		Errors             []lineOutcome
	}
	if err := json.Unmarshal(answer, &told); err != nil {
		return nil, err
	}
	lines := make([]lineOutcome, n)
	for i := range lines {
		lines[i].Status = 204
	}
	for _, e := range told.Errors {
		if e.Line < 1 || e.Line > n {
			return nil, fmt.Errorf("there is no line %d", e.Line)
		}
		lines[e.Line-1] = e
	}
	if rejected := len(told.Errors); told.Rejected != rejected || told.Accepted != n-rejected {
		return nil, fmt.Errorf("%d of %d lines are told to be rejected", rejected, n)
	}
	return lines, nil
}
