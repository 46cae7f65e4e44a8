package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Probed is a node that answered at an address.
type Probed struct {
	Node    string `json:"server_name"`
	Cluster string `json:"cluster"`
}

// maxHello bounds the first line that a node says, in bytes.
const maxHello = 64 << 10

// Probe asks which node listens at an address, without becoming one of its peers. config is what
// nodes speak, nil without TLS, and name the name that the node's certificate has to be for. Any
// process may call it.
func Probe(
	ctx context.Context, addr, name string, config *tls.Config,
) (found Probed, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return found, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if config != nil {
		config = config.Clone()
		config.ServerName = name
		conn = tls.Client(conn, config)
	}
	line, err := bufio.NewReaderSize(conn, maxHello).ReadSlice('\n')
	if err != nil {
		return found, fmt.Errorf("what listens there says nothing that a node would: %w", err)
	}
	hello, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok || json.Unmarshal(hello, &found) != nil || found.Node == "" {
		return found, errors.New("what listens there is no node of a cluster")
	}
	return found, nil
}

// ProbeWait is how long a node may take to answer Probe.
const ProbeWait = 2 * time.Second
