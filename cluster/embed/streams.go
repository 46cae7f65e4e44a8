package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoStream says that there is no stream of this name.
var ErrNoStream = errors.New("cluster/embed: there is no such stream")

// noStream is the code of an answer about a stream that is not there.
const noStream = 10059

// apiTimeout is how long an answer of the API may take. There is none while what is asked about has
// no leader.
const apiTimeout = 3 * time.Second

// global is the account that has the streams.
const global = "$G"

// Leads reports whether this server leads the raft group of a stream. It is cheap.
func (s *Server) Leads(stream string) bool {
	return s.server.JetStreamIsStreamLeader(global, stream)
}

// Stream returns what the leader of a stream tells of it, or ErrNoStream.
func (s *Server) Stream(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	info := new(jetstream.StreamInfo)
	return info, s.ask(ctx, s.conn, "STREAM.INFO."+name, nil, info)
}

// Create makes a stream. One of the same configuration may be there already.
func (s *Server) Create(ctx context.Context, c *nats.StreamConfig) error {
	return s.ask(ctx, s.conn, "STREAM.CREATE."+c.Name, c, nil)
}

// Abdicate has this server give up the lead of a stream's raft group at once, without asking any
// other. It does nothing if it does not lead it.
func (s *Server) Abdicate(stream string) {
	_ = s.server.JetStreamStepdownStream(global, stream)
}

// ErrNoValue says that a stream has no message on a subject.
var ErrNoValue = errors.New("cluster/embed: there is no such value")

// noMessage is the code of an answer about a message that is not there.
const noMessage = 10037

// Get returns the last message of a stream on a subject, as its leader has it, or ErrNoValue.
func (s *Server) Get(ctx context.Context, stream, subject string) ([]byte, error) {
	var answer struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	err := s.ask(ctx, s.conn, "STREAM.MSG.GET."+stream, map[string]string{"last_by_subj": subject},
		&answer)
	return answer.Message.Data, err
}

// Put adds the first message on a subject of a stream. An error may say that there is one.
func (s *Server) Put(ctx context.Context, subject string, data []byte) error {
	return s.publish(ctx, &nats.Msg{
		Subject: subject, Data: data, Header: nats.Header{nats.ExpectedLastSubjSeqHdr: {"0"}},
	})
}

// Set adds a message on a subject of a stream, which Get returns from then on.
func (s *Server) Set(ctx context.Context, subject string, data []byte) error {
	return s.publish(ctx, &nats.Msg{Subject: subject, Data: data})
}

func (s *Server) publish(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := s.conn.RequestMsgWithContext(ctx, msg)
	if err == nil {
		err = answerError(m.Data)
	}
	if err != nil {
		return fmt.Errorf("cluster/embed: put %s: %w", msg.Subject, err)
	}
	return nil
}

// StepDownMeta has the leader of the cluster give that to another server.
func (s *Server) StepDownMeta(ctx context.Context) error {
	conn, err := s.System()
	if err != nil {
		return err
	}
	defer conn.Close()
	return s.ask(ctx, conn, "META.LEADER.STEPDOWN", nil, nil)
}

// Meta returns who leads the cluster, "" if none does, and the servers that it has, their names, in
// reach or not, as far as this one knows.
func (s *Server) Meta() (leader string, servers []string) {
	jsz, err := s.server.Jsz(nil)
	if err != nil || jsz.Meta == nil {
		return "", nil
	}
	servers = append(servers, s.Name())
	for _, r := range jsz.Meta.Replicas {
		servers = append(servers, r.Name)
	}
	return jsz.Meta.Leader, servers
}

// LeadsMeta reports whether this server leads the cluster. It is cheap.
func (s *Server) LeadsMeta() bool { return s.server.JetStreamIsLeader() }

// KeepsLogs reports whether the logs are open: they are not any more when the cluster has removed
// this server, or its disk has failed.
func (s *Server) KeepsLogs() bool { return s.server.JetStreamEnabled() }

// ask makes one request of the API, and reads the answer into into unless that is nil.
func (s *Server) ask(
	ctx context.Context, conn *nats.Conn, what string, body, into any,
) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cluster/embed: %s: %w", what, err)
		}
	}()
	if s.conn == nil {
		return ErrNoLogs
	}
	var data []byte
	if body != nil {
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, "$JS.API."+what, data)
	if err != nil {
		return err
	}
	if err := answerError(m.Data); err != nil || into == nil {
		return err
	}
	return json.Unmarshal(m.Data, into)
}

// answerError is the error that an answer of the API tells of.
func answerError(data []byte) error {
	var answer struct {
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return err
	}
	switch e := answer.Error; {
	case e == nil:
		return nil
	case e.ErrCode == noStream:
		return ErrNoStream
	case e.ErrCode == noMessage:
		return ErrNoValue
	default:
		return fmt.Errorf("%s (%d)", e.Description, e.ErrCode)
	}
}

// System makes a connection for what concerns servers, not streams. The caller closes it.
func (s *Server) System() (*nats.Conn, error) {
	conn, err := nats.Connect("", nats.InProcessServer(s.server), nats.Timeout(2*time.Second),
		nats.UserInfo(systemUser, s.token), nats.Name("system"))
	if err != nil {
		return nil, fmt.Errorf("cluster/embed: connect: %w", err)
	}
	return conn, nil
}
