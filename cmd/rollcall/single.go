package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/checkpoint"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/internal/rootfs"
	"rollcall/wal"
)

// single is the presence of a node that is alone: one engine on the log and the checkpoint of the
// data directory.
type single struct {
	*engine.Engine
	files      *rootfs.FS // of the data directory
	log        *wal.Log   // holds the directory's lock
	checkpoint *checkpoint.Store
	memory     memory
	logger     *slog.Logger
	progress   func() // ends the reports of the recovery

	failed chan struct{}  // closed when log or checkpoint have failed
	closed chan struct{}  // ends watch
	loops  sync.WaitGroup // watch
}

// openSingle opens the data directory and makes an engine on it. It writes nothing.
func (c serveCmd) openSingle(n *node) (_ *single, err error) {
	s := &single{
		files: rootfs.New(c.DataDir), memory: n.memory, logger: n.logger, progress: func() {},
		failed: make(chan struct{}), closed: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(doneContext()))
		}
	}()
	s.log, s.checkpoint, err = datadir.Open(c.DataDir, c.logOptions(n, s.files),
		c.checkpointOptions(n, s.files))
	if err != nil {
		return nil, adviseOnDirectory(err)
	}
	o := c.engineOptions(n)
	o.Store = s.checkpoint
	if s.Engine, err = engine.New(s.log, o); err != nil {
		return nil, err
	}
	s.loops.Go(s.watch)
	return s, nil
}

// watch closes failed.
func (s *single) watch() {
	select {
	case <-s.log.Failed():
	case <-s.checkpoint.Failed():
	case <-s.closed:
		return
	}
	close(s.failed)
}

// Recover implements presence.
func (s *single) Recover() error {
	if stored, err := s.checkpoint.Keys(); err == nil { // else the recovery says what is wrong
		s.memory.warnRecovery(s.logger, stored)
	}
	s.progress = s.Engine.ReportProgress()
	return s.Engine.Recover()
}

// Prepare implements presence: the log is ready to be written before the store is.
func (s *single) Prepare() error { return adviseOnDirectory(s.log.Prepare()) }

// Start implements presence.
func (s *single) Start() error {
	defer s.endProgress()
	return adviseOnDirectory(s.Engine.Start())
}

func (s *single) endProgress() {
	s.progress()
	s.progress = func() {}
}

// Failed implements presence.
func (s *single) Failed() <-chan struct{} { return s.failed }

// Failure implements presence.
func (s *single) Failure() error {
	select {
	case <-s.log.Failed():
		return logFailure(s.log.Err())
	default:
	}
	select {
	case <-s.checkpoint.Failed():
		return advise(s.checkpoint.Err())
	default:
		return nil
	}
}

// logFailure says what to do about a log that failed.
func logFailure(err error) error {
	remedy := "check the disk, then start again: recovery begins from what was acknowledged"
	switch {
	case errors.Is(err, wal.ErrMoved):
		remedy = movedAdvice
	case errors.Is(err, wal.ErrReplaced):
		remedy = replacedAdvice
	}
	return fmt.Errorf("the log failed, so nothing can be promised any more: %w; %s", err, remedy)
}

// Close implements presence. It may be called when not all was opened.
func (s *single) Close(ctx context.Context) error {
	s.endProgress()
	if s.Engine != nil {
		_ = s.Engine.Close(ctx)
	}
	close(s.closed)
	s.loops.Wait()
	var errs []error
	if s.checkpoint != nil {
		errs = append(errs, s.checkpoint.Close())
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	return errors.Join(append(errs, s.files.Close())...)
}

func (s *single) collectors() []prometheus.Collector {
	return []prometheus.Collector{diskFigures{s.log, s.checkpoint, s.Engine.Stats}}
}

// clusterz implements presence.
func (*single) clusterz() http.Handler { return nil }
