package server

import (
	"net/http"
	"net/http/pprof"
	"strconv"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rollcall/engine"
	"rollcall/server/page"
	"rollcall/wire"
)

// adminRoutes are the operators' routes. They carry no CORS headers: no other site's page has business on this listener.
func (s *Server) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", page.New())
	mux.HandleFunc("GET /page.json", s.pageSettings)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.opts.Registry, promhttp.HandlerOpts{Registry: s.opts.Registry}))
	mux.HandleFunc("GET /debug/presence", s.debugPresence)
	mux.HandleFunc("POST /debug/token", s.debugToken)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { writeAnswer(w, routeNotFound) })
	return mux
}

// alive answers while the process does.
func alive(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// ready answers whether heartbeats and streams should be sent here, and if not, why.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.notReady(); err != nil {
		writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	alive(w, nil)
}

// notReady is why /readyz answers 503, nil when it does not.
func (s *Server) notReady() error {
	if err := s.presence.Ready(); err != nil {
		return err
	}
	if s.draining.Load() {
		return engine.ErrDraining
	}
	return nil
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

// debugPresence shows what is known of one user's devices.
func (s *Server) debugPresence(w http.ResponseWriter, r *http.Request) {
	if s.opts.Production {
		writeAnswer(w, debugDisabled)
		return
	}
	text := wire.TrimSpace([]byte(r.URL.Query().Get(wire.UserParam)))
	if len(text) == 0 {
		writeAnswer(w, missingUserIDParam)
		return
	}
	user, form := wire.ParseID(text)
	if form == wire.IDInvalid { // nobody's: as the original, an empty answer
		writeJSON(w, http.StatusOK, appendPresence(nil, 0, nil))
		return
	}
	records, err := s.presence.Records(user)
	if err != nil {
		writeJSON(w, http.StatusServiceUnavailable, wire.AppendError(nil, wire.CodeUnavailable, err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, appendPresence(nil, s.presence.Streams(user), records))
}

// appendPresence appends the answer of /debug/presence.
func appendPresence(dst []byte, streams int, records []engine.Record) []byte {
	dst = append(dst, `{"active_streams":`...)
	dst = strconv.AppendInt(dst, int64(streams), 10)
	dst = append(dst, `,"records":{`...)
	for i := range records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendRecord(dst, &records[i])
	}
	return append(dst, "}}"...)
}

func appendRecord(dst []byte, r *engine.Record) []byte {
	dst = append(dst, `"device:`...)
	dst = wire.AppendID(dst, r.Device)
	dst = append(dst, `":`...)
	dst = wire.AppendEvent(dst, &r.Event)
	dst = append(dst, `,"last_heartbeat_ms":`...)
	dst = strconv.AppendUint(dst, r.HeartbeatAtMS, 10)
	dst = append(dst, `,"last_offline_ms":`...)
	if r.OfflineAtMS == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendUint(dst, r.OfflineAtMS, 10)
	}
	dst = append(dst, `,"updated_at_ms":`...)
	dst = strconv.AppendUint(dst, r.UpdatedAtMS, 10)
	return append(dst, '}')
}

func writeAnswer(w http.ResponseWriter, r reply) { writeJSON(w, answers[r].status, answers[r].body) }

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", wire.JSONType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
