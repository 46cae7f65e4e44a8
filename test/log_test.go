package test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestLogsKeepSecretsAndStayShort: whatever clients send, no secret of theirs or ours is in the log
// at any level; and at the default level heartbeats and streams, good and bad, write nothing.
func TestLogsKeepSecretsAndStayShort(t *testing.T) {
	for _, level := range []string{"debug", "info"} {
		t.Run(level, func(t *testing.T) {
			r := &rig{t: t, dir: t.TempDir(), flags: []string{"--log-level=" + level, "--drain-timeout=0s"}}
			const ingest, signing = "ingest-KGVZ3Q-of-the-black-box-tests", "signing-KGVZ3Q-of-the-black-box-tests"
			r.env = []string{ingestTokenEnv + "=" + ingest + ",rotated-KGVZ3Q-of-the-black-box-tests", signingKeyEnv + "=" + signing}
			r.start()
			quiet := len(r.logs())

			b := newBeat()
			user := b["user_id"].(string)
			token := signToken(signing, user, time.Hour)
			stream := r.followRaw(request("GET", streamPath+"?user_id="+user, "", bearer(token)))
			for seq := range 20 {
				r.send(request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingest)))
				stream.event()
			}
			r.send(request("POST", heartbeatPath, b.json(), bearer("guess-KGVZ3Q")))
			r.send(request("POST", heartbeatPath, "{", bearer(ingest)))
			r.send(request("GET", streamPath+"?user_id="+user, "", bearer(token+"x")))
			r.send("GET " + streamPath + "?access_token=" + token + " HTTP/1.1\r\nHost: rollcall\r\nbroken header\r\n" + bearer(token) + "\r\n\r\n")
			stream.conn.Close()
			r.until("the stream is closed", func() bool { return value(t, r.scrape(), "streams_closed_total", "reason=client_gone") == 1 })
			for line := range strings.Lines(r.logs()[quiet:]) {
				// it may be busy with anything
				ofTheMachine := strings.Contains(line, "paused") || strings.Contains(line, "stalled")
				if level == "info" && !ofTheMachine {
					t.Errorf("clients made the server log %s", line)
				}
			}
			large := "POST " + heartbeatPath + " HTTP/1.1\r\nHost: x\r\n" + bearer(ingest) + "\r\nX: " + strings.Repeat("x", 32<<10) + "\r\n\r\n"
			r.send(large) // this one is told to the operator
			r.terminate()
			if !strings.Contains(r.logs(), "--max-header-bytes") {
				t.Errorf("a head that is too large is not in the log\n%s", r.logs())
			}
			signature := token[strings.IndexByte(token, '.')+1:]
			for _, secret := range []string{"KGVZ3Q", token, signature, token[:40]} {
				if strings.Contains(r.logs(), secret) {
					t.Errorf("%q is in the log\n%s", secret, r.logs())
				}
			}
			if !strings.Contains(r.logs(), "ingest_tokens=2 signing_keys=1") {
				t.Errorf("the configuration is not in the log\n%s", r.logs())
			}
		})
	}
}

// TestLogsAsJSON: one object per line.
func TestLogsAsJSON(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir(), flags: []string{"--log-format=json"}, env: []string{ingestTokenEnv + "=x y"}}
	out, err := r.command().CombinedOutput()
	if err == nil {
		t.Fatal("it started with a token that can never match")
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var line struct{ Msg, Level, Time string }
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || line.Msg != "configuration" ||
		line.Level != "INFO" || line.Time == "" {
		t.Errorf("%v: %s", err, out)
	}
}
