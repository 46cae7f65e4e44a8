package jslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// NATS returns a stream of JetStream, made as Config says.
func NATS(nc *nats.Conn, name string) Stream { return &natsStream{nc: nc, name: name} }

// Config is how a stream has to be made for NATS.
func Config(name string, replicas int, metadata map[string]string) *nats.StreamConfig {
	return &nats.StreamConfig{
		Name:        name,
		Subjects:    []string{subject(name)},
		Storage:     nats.FileStorage,
		Retention:   nats.LimitsPolicy,
		Discard:     nats.DiscardNew, // nothing goes but by a purge
		Replicas:    replicas,
		AllowDirect: true,
		DenyDelete:  true,
		Metadata:    metadata,
	}
}

// subject is where a stream takes its messages from.
func subject(name string) string { return "log." + name }

// natsStream speaks to JetStream by plain requests: its client libraries try again by themselves,
// which must not be (C3).
type natsStream struct {
	nc   *nats.Conn
	name string
}

// apiError is an error in an answer of JetStream.
type apiError struct {
	Code    int    `json:"code"`
	ErrCode int    `json:"err_code"`
	Text    string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("JetStream: %s (%d)", e.Text, e.ErrCode) }

// wrongLastSequence is the code with which JetStream refuses a message that expects another last
// one. Its text ends with the sequence of the last one.
const wrongLastSequence = 10071

// err returns e as an error of the Stream.
func (e *apiError) err() error {
	if e == nil {
		return nil
	}
	if e.ErrCode == wrongLastSequence {
		text := e.Text[strings.LastIndexByte(e.Text, ' ')+1:]
		if last, err := strconv.ParseUint(text, 10, 64); err == nil {
			return &WrongLastError{Last: last}
		}
	}
	return e
}

// request asks JetStream's API.
func (s *natsStream) request(ctx context.Context, verb string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM."+verb+"."+s.name, data)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}

func (s *natsStream) Info(ctx context.Context) (first, last uint64, err error) {
	var answer struct {
		Error *apiError
		State struct {
			First uint64 `json:"first_seq"`
			Last  uint64 `json:"last_seq"`
		}
	}
	if err := s.request(ctx, "INFO", struct{}{}, &answer); err != nil {
		return 0, 0, err
	}
	return answer.State.First, answer.State.Last, answer.Error.err()
}

func (s *natsStream) Purge(ctx context.Context, before uint64) error {
	var answer struct{ Error *apiError }
	body := struct {
		Seq uint64 `json:"seq"`
	}{before}
	if err := s.request(ctx, "PURGE", body, &answer); err != nil {
		return err
	}
	return answer.Error.err()
}

func (s *natsStream) Publish(
	ctx context.Context, expect uint64, data []byte,
) (seq uint64, err error) {
	m := &nats.Msg{Subject: subject(s.name), Data: data, Header: nats.Header{
		nats.ExpectedLastSeqHdr: {strconv.FormatUint(expect, 10)},
	}}
	r, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error     *apiError
		Stream    string
		Seq       uint64
		Duplicate bool
	}
	switch err := json.Unmarshal(r.Data, &ack); {
	case err != nil:
		return 0, err
	case ack.Error != nil:
		return 0, ack.Error.err()
	case ack.Duplicate || ack.Stream != s.name:
		return 0, fmt.Errorf("odd acknowledgement %q", r.Data)
	}
	return ack.Seq, nil
}

const (
	// readBytes is how much of a stream one request asks for: about twice as much is in memory.
	readBytes = 8 << 20
	// readAhead is how many messages wait for fn at most, so that they come while it works.
	readAhead = 32
	// readSilence is how long a message may take to come.
	readSilence = time.Second
)

func (s *natsStream) Read(
	ctx context.Context, from uint64, fn func(seq uint64, data []byte) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages := make(chan readMessage, readAhead)
	done := make(chan error, 1)
	go func() {
		defer close(messages)
		done <- s.readAll(ctx, from, messages)
	}()
	for m := range messages {
		if err := fn(m.seq, m.data); err != nil {
			cancel()
			for range messages { // until the goroutine is gone
			}
			return err
		}
	}
	return <-done
}

type readMessage struct {
	seq  uint64
	data []byte
}

// readAll asks for one part of the stream after the other and passes the messages on.
func (s *natsStream) readAll(ctx context.Context, from uint64, to chan<- readMessage) error {
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(-1, -1); err != nil { // a request says how much comes
		return err
	}
	for {
		ask := fmt.Sprintf(`{"seq":%d,"batch":%d,"max_bytes":%d}`, from, 1<<30, readBytes)
		err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+s.name, inbox, []byte(ask))
		if err != nil {
			return err
		}
		last, more, err := readPart(ctx, sub, to)
		if err != nil || !more || last < from {
			return err
		}
		from = last + 1
	}
}

// readPart passes the answers to one request on, and says which message was the last and whether
// there were more.
func readPart(
	ctx context.Context, sub *nats.Subscription, to chan<- readMessage,
) (last uint64, more bool, err error) {
	for {
		m, err := nextMessage(ctx, sub)
		if err != nil {
			return last, false, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // the end of the part
			return last, m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404": // there is none from here on
			return last, false, nil
		default:
			return last, false, fmt.Errorf("JetStream: status %s %s", status,
				m.Header.Get("Description"))
		}
		if last, err = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64); err != nil {
			return last, false, fmt.Errorf("JetStream: a message without its sequence: %w", err)
		}
		select {
		case to <- readMessage{last, m.Data}:
		case <-ctx.Done():
			return last, false, ctx.Err()
		}
	}
}

// nextMessage waits for a message, but not for ever.
func nextMessage(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readSilence, errSilence)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil && context.Cause(ctx) == errSilence {
		err = errSilence
	}
	return m, err
}

var errSilence = errors.New("JetStream does not send what it was asked for")
