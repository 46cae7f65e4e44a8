package read

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
)

// renewTimeout is how long the nodes have to say which of them has a stream.
const renewTimeout = time.Second

// Renew moves the end of a stream to an instant of this node's clock, wherever in the cluster the
// stream is, see Broadcaster.Renew. The node that has it tells whose it is and which users it
// follows, and fits decides here. An error that is engine.ErrNotMine says that no node has it that
// answered, but not all did.
func (r *Reader) Renew(name string, expiresNanos int64, fits broadcast.Fits) error {
	err := r.edge.Renew(name, expiresNanos, fits)
	if !errors.Is(err, broadcast.ErrNoStream) || len(name) != broadcast.StreamIDLen {
		return err
	}
	node, stream, err := r.holder(name)
	if err != nil {
		return err
	}
	var owner [16]byte
	copy(owner[:], stream)
	fit := fits(owner, func(yield func(uuid.UUID) bool) {
		for at := 16; at < len(stream) && yield(uuid.UUID(stream[at:])); at += 16 {
		}
	})
	if !fit {
		return broadcast.ErrUnfit
	}
	question := appendRenew(nil, name, r.wallMS(expiresNanos))
	_, err = r.request(context.Background(), node, question)
	return err
}

// holder asks the other nodes which of them has a stream, and returns its owner and its users.
func (r *Reader) holder(name string) (node string, stream []byte, err error) {
	type answer struct {
		node   string
		stream []byte
		err    error
	}
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	peers := r.bus.Peers()
	answers := make(chan answer, len(peers))
	for _, peer := range peers {
		go func() {
			text, err := r.ask(ctx, peer, append([]byte{format, byte(opStream)}, name...))
			if err == nil && (len(text) < 16 || len(text)%16 != 0) {
				err = errMessage
			}
			answers <- answer{peer, text, err}
		}()
	}
	err = broadcast.ErrNoStream
	for range peers {
		a := <-answers
		if a.err == nil {
			return a.node, a.stream, nil
		}
		if !errors.Is(a.err, broadcast.ErrNoStream) {
			err = errNoAnswer
		}
	}
	return "", nil, err
}

// wallMS is when an instant of this node's clock is, by the wall clock in milliseconds; 0: never.
// Each node judges by its own wall clock when a token ends.
func (r *Reader) wallMS(nanos int64) uint64 {
	if nanos == 0 || nanos == math.MaxInt64 {
		return 0
	}
	now := r.clock()
	return uint64(max(1, int64(now.WallMS)+(nanos-now.Nanos)/int64(time.Millisecond)))
}

// instant is the reverse of wallMS.
func (r *Reader) instant(wallMS uint64) int64 {
	now := r.clock()
	if left := int64(wallMS) - int64(now.WallMS); wallMS == 0 {
		return 0
	} else if left < (math.MaxInt64-now.Nanos)/int64(time.Millisecond) {
		return max(1, now.Nanos+left*int64(time.Millisecond))
	}
	return math.MaxInt64
}

func appendRenew(dst []byte, name string, wallMS uint64) []byte {
	dst = append(append(dst, format, byte(opRenew)), name...)
	return binary.LittleEndian.AppendUint64(dst, wallMS)
}

// answerStream tells of a stream of this node's.
func (r *Reader) answerStream(dst, question []byte) ([]byte, error) {
	if len(question) != broadcast.StreamIDLen {
		return nil, errMessage
	}
	err := r.edge.Renew(string(question), 0,
		func(owner [16]byte, users func(yield func(uuid.UUID) bool)) bool {
			dst = append(dst, owner[:]...)
			for id := range users {
				dst = append(dst, id[:]...)
			}
			return false // to know is all
		})
	if errors.Is(err, broadcast.ErrUnfit) {
		err = nil
	}
	return dst, err
}

// answerRenew moves the end of a stream of this node's.
func (r *Reader) answerRenew(dst, question []byte) ([]byte, error) {
	if len(question) != broadcast.StreamIDLen+8 {
		return nil, errMessage
	}
	name := string(question[:broadcast.StreamIDLen])
	until := r.instant(binary.LittleEndian.Uint64(question[broadcast.StreamIDLen:]))
	return dst, r.edge.Renew(name, until, func([16]byte, func(func(uuid.UUID) bool)) bool {
		return true // the other node has decided
	})
}
