package test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	verrors "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"rollcall/internal/testwait"
)

// apiUser and apiDevice are what the heartbeats of these tests are about.
const (
	apiUser   = "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"
	apiDevice = "b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"
)

// unprovoked are documented answers that this test does not cause, and why.
var unprovoked = map[string]string{
	"POST " + heartbeatPath + " 408":  "takes the read timeout, 10 s; server/server_test.go has it with a shorter one",
	"POST " + batchPath + " 408":      "the same",
	"GET " + streamPath + " 408":      "the same",
	"GET " + presencePath + " 408":    "the same",
	"POST " + queryPath + " 408":      "the same",
	"GET " + listStreamPath + " 408":  "the same",
	"POST " + listStreamPath + " 408": "the same",
	"POST " + renewPath + " 408":      "the same",
	"GET /debug/presence 503":         "needs a log that fails; the fault tests of engine/ and server/ have it",
	"GET /debug/users 503":            "the same",
	"GET /clusterz/deed 200":          "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"GET /clusterz/deed 503":          "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"GET /clusterz/deed 401":          "as of GET /clusterz, whose access it has",
	"GET /clusterz/deed 403":          "as of GET /clusterz, whose access it has",
	"GET /clusterz/deed 404":          "as of GET /clusterz, whose access it has",
	"POST /clusterz/balance 200":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/balance 400":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/balance 503":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/balance 401":      "as of GET /clusterz, whose access it has",
	"POST /clusterz/balance 403":      "as of GET /clusterz, whose access it has",
	"POST /clusterz/balance 404":      "as of GET /clusterz, whose access it has",
	"POST /clusterz/leave 200":        "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/leave 409":        "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/leave 503":        "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/leave 401":        "as of GET /clusterz, whose access it has",
	"POST /clusterz/leave 403":        "as of GET /clusterz, whose access it has",
	"POST /clusterz/leave 404":        "as of GET /clusterz, whose access it has",
	"POST /clusterz/replace 200":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/replace 409":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/replace 503":      "needs a cluster; TestANodeJoinsAndLeaves of cluster has the route",
	"POST /clusterz/replace 401":      "as of GET /clusterz, whose access it has",
	"POST /clusterz/replace 403":      "as of GET /clusterz, whose access it has",
	"POST /clusterz/replace 404":      "as of GET /clusterz, whose access it has",
	"GET /clusterz/devices 200":       "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"GET /clusterz/devices 503":       "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"GET /clusterz/devices 401":       "as of GET /clusterz, whose access it has",
	"GET /clusterz/devices 403":       "as of GET /clusterz, whose access it has",
	"GET /clusterz/devices 404":       "as of GET /clusterz, whose access it has",
	"GET /clusterz/export 200":        "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"GET /clusterz/export 409":        "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"GET /clusterz/export 503":        "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"GET /clusterz/export 401":        "as of GET /clusterz, whose access it has",
	"GET /clusterz/export 403":        "as of GET /clusterz, whose access it has",
	"GET /clusterz/export 404":        "as of GET /clusterz, whose access it has",
	"POST /clusterz/import 200":       "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"POST /clusterz/import 409":       "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"POST /clusterz/import 503":       "needs a cluster; TestIntoAClusterAndBack of cmd/rollcall has the route",
	"POST /clusterz/import 401":       "as of GET /clusterz, whose access it has",
	"POST /clusterz/import 403":       "as of GET /clusterz, whose access it has",
	"POST /clusterz/import 404":       "as of GET /clusterz, whose access it has",
	"GET /clusterz 200":               "needs a cluster; TestCluster has it",
	"GET /debug/pprof/profile 500":    "needs a profile that is being taken; it is net/http/pprof's answer",
	"GET /debug/pprof/trace 500":      "the same",
}

func openapiModel(t *testing.T) *libopenapi.DocumentModel[v3.Document] {
	t.Helper()
	model, err := openapiDocument(t).BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func openapiDocument(t *testing.T) libopenapi.Document {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// checker validates answers and notes which were seen.
type checker struct {
	t    *testing.T
	v    validator.Validator
	seen map[string]bool // "METHOD path status", path as documented
}

func newChecker(t *testing.T) *checker {
	t.Helper()
	v, errs := validator.NewValidator(openapiDocument(t))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return &checker{t, v, map[string]bool{}}
}

func describe(errs []*verrors.ValidationError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "\n  %s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			fmt.Fprintf(&b, "\n    %s at %s", s.Reason, s.KeywordLocation)
		}
	}
	return b.String()
}

// TestOpenAPIDocument: it is valid OpenAPI 3.1, and each example of an answer fits its schema.
func TestOpenAPIDocument(t *testing.T) {
	c := newChecker(t)
	if ok, errs := c.v.ValidateDocument(); !ok {
		t.Errorf("docs/openapi.yaml is no OpenAPI 3.1:%s", describe(errs))
	}
	schemas := schema_validation.NewSchemaValidator()
	examples := 0
	for path, item := range openapiModel(t).Model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			contents := map[string]*v3.MediaType{}
			if op.RequestBody != nil {
				for kind, media := range op.RequestBody.Content.FromOldest() {
					contents["request "+kind] = media
				}
			}
			for status, resp := range op.Responses.Codes.FromOldest() {
				for kind, media := range resp.Content.FromOldest() {
					contents[status+" "+kind] = media
				}
			}
			for name, media := range contents {
				for key, example := range media.Examples.FromOldest() {
					var value any
					if err := example.Value.Decode(&value); err != nil {
						t.Fatal(err)
					}
					text, err := json.Marshal(value)
					if err != nil {
						t.Fatal(err)
					}
					examples++
					if ok, errs := schemas.ValidateSchemaString(media.Schema.Schema(),
						string(text)); !ok {
						t.Errorf("%s %s, %s: the example %s does not fit:%s", method, path, name, key, describe(errs))
					}
				}
			}
		}
	}
	if examples < 20 {
		t.Errorf("found only %d examples", examples)
	}
}

// ask makes a request and validates what is answered. It returns the body; a stream's is its first
// frame.
func (c *checker) ask(addr, method, target, path string, status int, body string,
	headers ...string) []byte {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+addr+target, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if status < 300 && body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Timeout: testwait.Limit}).Do(req)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, target, err)
		return nil
	}
	defer resp.Body.Close()
	return c.check(req, resp, path, status, body)
}

// check validates one answer, and the request too if it was accepted.
func (c *checker) check(req *http.Request, resp *http.Response, path string, status int,
	body string) []byte {
	c.t.Helper()
	what := fmt.Sprintf("%s %s %d", req.Method, path, resp.StatusCode)
	var answer []byte
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
		answer = []byte(line)
	} else {
		answer, _ = io.ReadAll(resp.Body)
	}
	if resp.StatusCode != status {
		c.t.Errorf("%s: want %d: %s", what, status, answer)
		return answer
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	if ok, errs := c.v.ValidateHttpResponse(req, resp); !ok {
		c.t.Errorf("%s: the answer is not as documented: %s%s", what, answer, describe(errs))
	}
	// which the validator takes for one JSON text
	ndjson := req.Header.Get("Content-Type") == "application/x-ndjson"
	if status < 300 && req.Method != "OPTIONS" && !ndjson {
		req.Body = io.NopCloser(strings.NewReader(body))
		if ok, errs := c.v.ValidateHttpRequest(req); !ok {
			c.t.Errorf("%s: was accepted, but by the document it is wrong:%s", what, describe(errs))
		}
	}
	c.seen[what] = true
	return answer
}

// heads speaks for itself: net/http's client sends no such head.
func (c *checker) heads(s *rig, method, path string) {
	c.t.Helper()
	for status, text := range map[int]string{
		431: fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", method, path, strings.Repeat("x", 1<<16)),
		505: fmt.Sprintf("%s %s HTTP/2.0\r\nHost: x\r\n\r\n", method, path),
	} {
		conn := s.dial()
		defer conn.Close()
		io.WriteString(conn, text)
		req, _ := http.NewRequest(method, "http://"+s.addr+path, nil)
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			c.t.Fatal(err)
		}
		c.check(req, resp, path, status, "")
	}
}

func apiBeat(seq int, change ...string) string {
	text := fmt.Sprintf(`{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online","source":"x","sent_at_ms":1,"seq":%d,"ttl_ms":60000}`, apiUser, apiDevice, seq)
	return strings.NewReplacer(change...).Replace(text)
}

// TestOpenAPIAnswers provokes each documented answer and validates it.
func TestOpenAPIAnswers(t *testing.T) {
	c := newChecker(t)
	both := startServer(t, "--drain-timeout=2s", "--dev")
	onlyIngest := startServerWith(t, []string{ingestTokenEnv + "=" + ingestToken}, "--rate-per-ip=0.01", "--unpack-rate-per-ip=1",
		"--admin-token-file="+adminTokenFile(t))
	onlySigning := startServerWith(t, []string{signingKeyEnv + "=" + signingKey, "ENVIRONMENT=production"})

	c.heartbeats(both, onlyIngest, onlySigning)
	c.batches(both, onlyIngest, onlySigning)
	c.page(both, onlyIngest, onlySigning)
	c.streams(both, onlyIngest)
	c.queries(both, onlyIngest)
	c.listStreams(both, onlyIngest)
	c.admin(both, onlySigning)
	c.adminRefusals(onlyIngest)
	c.drain(both)
	c.complete()
}

func (c *checker) heartbeats(both, onlyIngest, onlySigning *rig) {
	const auth = "Authorization: Bearer " + ingestToken
	post := func(s *rig, status int, body string, headers ...string) {
		c.t.Helper()
		c.ask(s.addr, "POST", heartbeatPath, heartbeatPath, status, body, headers...)
	}
	post(both, 204, apiBeat(5), auth)
	post(both, 409, apiBeat(5), auth)
	post(both, 401, apiBeat(6))
	post(both, 413, strings.Repeat(" ", 16<<10+1), auth)
	for _, body := range []string{"", "x", apiBeat(6, apiUser, "x"), apiBeat(6, apiUser, ""),
		apiBeat(6, apiUser, strings.ToUpper(apiUser)), apiBeat(6, `n":1`, `n":2`),
		apiBeat(6, "online", "away"), apiBeat(6, `"x"`, `""`), apiBeat(6, `"sent_at_ms":1`, `"sent_at_ms":-1`), apiBeat(-1), apiBeat(6, "60000", "0")} {
		post(both, 400, body, auth)
	}
	post(both, 415, "\x8b\x02\x80{}", auth, "Content-Encoding: br")
	post(onlyIngest, 204, apiBeat(5), auth)
	post(onlyIngest, 429, apiBeat(6), auth)
	post(onlySigning, 503, apiBeat(5), auth)
	c.ask(both.addr, "OPTIONS", heartbeatPath, heartbeatPath, 204, "")
	c.heads(both, "POST", heartbeatPath)
}

func (c *checker) batches(both, onlyIngest, onlySigning *rig) {
	const auth, lines = "Authorization: Bearer " + ingestToken, "Content-Type: application/x-ndjson"
	post := func(s *rig, status int, body string, headers ...string) {
		c.t.Helper()
		c.ask(s.addr, "POST", batchPath, batchPath, status, body, headers...)
	}
	other := strings.NewReplacer(apiDevice, "0d9c8b7a-6f5e-4d3c-8b2a-190807060504")
	post(both, 200, other.Replace(apiBeat(1)+"\n"+apiBeat(2)+"\n"+apiBeat(1)+"\nno JSON\n"), auth, lines)
	post(both, 200, other.Replace("["+apiBeat(3)+","+apiBeat(4)+"]"), auth, "Content-Type: application/json")
	post(both, 400, other.Replace("["+apiBeat(5)+"}"), auth, "Content-Type: application/json")
	post(both, 400, "no gzip", auth, lines, "Content-Encoding: gzip")
	post(both, 401, apiBeat(7), lines)
	post(both, 413, strings.Repeat("{}\n", 10_001), auth, lines)
	post(both, 413, strings.Repeat(" ", 4<<20+1), auth, lines)
	post(both, 415, apiBeat(7), auth, "Content-Type: text/plain")
	post(both, 415, apiBeat(7), auth, lines, "Content-Encoding: br")
	spaces := gzipText(strings.Repeat(strings.Repeat(" ", 16<<10-1)+"\n", 256))
	for _, status := range []int{200, 200, 429} { // the second one leads into debt
		post(onlyIngest, status, spaces, auth, lines, "Content-Encoding: gzip")
	}
	post(onlySigning, 503, apiBeat(7), auth, lines)
	c.ask(both.addr, "OPTIONS", batchPath, batchPath, 204, "")
	c.heads(both, "POST", batchPath)
}

func gzipText(text string) string {
	var b strings.Builder
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

func (c *checker) page(both, onlyIngest, production *rig) {
	const token, own = "/debug/token", "Rollcall-Page: 1"
	c.ask(both.admin, "GET", "/", "/", 200, "")
	c.ask(both.admin, "GET", "/page.json", "/page.json", 200, "")
	for s, status := range map[*rig]int{both: 200, onlyIngest: 503, production: 403} {
		c.ask(s.admin, "POST", token+"?user_id="+apiUser, token, status, "", own, bearer(adminToken))
	}
	c.ask(both.admin, "POST", token, token, 400, "", own)
	c.ask(both.admin, "POST", token+"?user_id=bob", token, 400, "", own)
	c.ask(both.admin, "POST", token+"?user_id="+apiUser, token, 403, "")
}

func (c *checker) streams(both, onlyIngest *rig) {
	get := func(s *rig, status int, query string, headers ...string) []byte {
		c.t.Helper()
		return c.ask(s.addr, "GET", streamPath+query, streamPath, status, "", headers...)
	}
	good := "Authorization: Bearer " + tokenFor(apiUser, time.Hour)
	frame := get(both, 200, "?user_id="+apiUser, good)
	schema, _ := openapiModel(c.t).Model.Components.Schemas.Get("Event")
	payload := strings.TrimPrefix(string(frame), "data: ")
	if ok, errs := schema_validation.NewSchemaValidator().ValidateSchemaString(schema.Schema(),
		payload); !ok {
		c.t.Errorf("the frame %q is no Event:%s", frame, describe(errs))
	}
	get(both, 400, "")
	get(both, 400, "?user_id=bob", good)
	get(both, 401, "?user_id="+apiUser)
	get(both, 403, "?user_id="+apiUser, "Authorization: Bearer x.y")
	get(both, 403, "?user_id="+apiDevice, good)
	get(onlyIngest, 503, "?user_id="+apiUser, good)
	c.ask(both.addr, "OPTIONS", streamPath, streamPath, 204, "")
	c.heads(both, "GET", streamPath)
}

func (c *checker) queries(both, onlyIngest *rig) {
	every := bearer(everyUser())
	mine := bearer(tokenFor(apiUser, time.Hour))
	for _, list := range []struct {
		method, path string

		most        int
		query, body func(ids ...string) string
	}{
		{"GET", presencePath, 100, func(ids ...string) string {
			return "?user_id=" + strings.Join(ids, "&user_id=")
		}, func(...string) string { return "" }},
		{"POST", queryPath, 1000, func(...string) string { return "" }, listBody},
	} {
		ask := func(s *rig, status int, token string, ids ...string) {
			c.t.Helper()
			c.ask(s.addr, list.method, list.path+list.query(ids...), list.path, status,
				list.body(ids...), token)
		}
		ask(both, 200, mine, apiUser)
		ask(both, 200, every, apiDevice, apiUser)
		ask(both, 400, mine, "bob")
		ask(both, 401, "X: y", apiUser)
		ask(both, 403, mine, apiDevice)
		ask(both, 413, every, manyUsers(list.most+1)...)
		ask(onlyIngest, 503, mine, apiUser)
		c.ask(both.addr, "OPTIONS", list.path, list.path, 204, "")
		c.heads(both, list.method, list.path)
	}
	c.ask(both.addr, "POST", queryPath, queryPath, 400, "{}", mine)
}

func (c *checker) listStreams(both, onlyIngest *rig) {
	every, mine := bearer(everyUser()), bearer(tokenFor(apiUser, time.Hour))
	ask := func(s *rig, method string, status int, query, body string, headers ...string) {
		c.t.Helper()
		c.ask(s.addr, method, listStreamPath+query, listStreamPath, status, body, headers...)
	}
	for method, body := range map[string]string{"GET": "", "POST": listBody(apiUser)} {
		ask(both, method, 200, "?view=users&linger_ms=1000", body, mine)
		ask(both, method, 400, "?view=x", body, mine)
		ask(both, method, 401, "", body)
		ask(both, method, 403, "", body, bearer("a.b"))
		ask(onlyIngest, method, 503, "", body, mine)
		c.heads(both, method, listStreamPath)
	}
	ask(both, "POST", 400, "", listBody("bob"), mine)
	ask(both, "POST", 403, "", listBody(apiDevice), mine)
	ask(both, "POST", 413, "", listBody(manyUsers(1001)...), every)
	few := startServer(c.t, "--max-users-per-stream=1")
	ask(few, "GET", 413, "", "", bearer(tokenWith(claims{"user_ids": manyUsers(2)})))
	c.ask(both.addr, "OPTIONS", listStreamPath, listStreamPath, 204, "")

	s := both.follow(apiUser)
	renew := func(s *rig, status int, id, token string) {
		c.t.Helper()
		c.ask(s.addr, "POST", strings.Replace(renewPath, "{stream_id}", id, 1), renewPath, status, "", token)
	}
	id := s.head.header.Get("Rollcall-Stream")
	renew(both, 204, id, mine)
	renew(both, 401, id, "X: y")
	renew(both, 403, id, every)
	renew(both, 404, strings.Repeat("0", 24), mine)
	renew(onlyIngest, 503, id, mine)
	c.ask(both.addr, "OPTIONS", renewPath, renewPath, 204, "")
	c.heads(both, "POST", renewPath)
}

func (c *checker) admin(both, production *rig) {
	get := func(s *rig, status int, target, path string) {
		c.t.Helper()
		c.ask(s.admin, "GET", target, path, status, "")
	}
	for _, path := range []string{"/livez", "/healthz", "/readyz", "/metrics", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
		get(both, 200, path, path)
	}
	get(both, 200, "/debug/presence?user_id="+apiUser, "/debug/presence")
	get(both, 200, "/debug/presence?user_id=bob", "/debug/presence")
	get(both, 400, "/debug/presence", "/debug/presence")
	get(production, 403, "/debug/presence?user_id="+apiUser, "/debug/presence")
	get(both, 200, "/debug/users?q="+apiUser[:8], "/debug/users")
	get(both, 200, "/debug/users?status=offline&source=nowhere&limit=1", "/debug/users")
	get(both, 400, "/debug/users?q=bob", "/debug/users")
	get(production, 403, "/debug/users", "/debug/users")
	get(both, 404, "/clusterz", "/clusterz")
	get(both, 200, "/debug/pprof/heap", "/debug/pprof/{profile}")
	get(both, 404, "/debug/pprof/nothing", "/debug/pprof/{profile}")
	get(both, 200, "/debug/pprof/profile?seconds=1", "/debug/pprof/profile")
	get(both, 200, "/debug/pprof/trace?seconds=0.1", "/debug/pprof/trace")
	c.ask(both.admin, "POST", "/debug/pprof/symbol", "/debug/pprof/symbol", 200, "0x1", "Content-Type: text/plain")
}

// adminRefusals are what a server with admin tokens says to those who lack one, and to other sites.
func (c *checker) adminRefusals(locked *rig) {
	for path, methods := range map[string][]string{
		"/": {"GET"}, "/page.json": {"GET"}, "/metrics": {"GET"}, "/debug/token": {"POST"},
		"/debug/presence": {"GET"}, "/debug/users": {"GET"}, "/clusterz": {"GET"}, "/debug/pprof/": {"GET"}, "/debug/pprof/{profile}": {"GET"},
		"/debug/pprof/cmdline": {"GET"}, "/debug/pprof/symbol": {"GET", "POST"},
		"/debug/pprof/profile": {"GET"}, "/debug/pprof/trace": {"GET"},
	} {
		target := strings.Replace(path, "{profile}", "heap", 1)
		for _, method := range methods {
			if path != "/" {
				c.ask(locked.admin, method, target, path, 401, "")
			}
			c.ask(locked.admin, method, target, path, 403, "", "Sec-Fetch-Site: cross-site")
		}
	}
}

// drain stops the server while a stream is open, so that /readyz can say so.
func (c *checker) drain(s *rig) {
	open := s.dial()
	defer open.Close()
	fmt.Fprintf(open, "GET %s?user_id=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", streamPath, apiUser, tokenFor(apiUser, time.Hour))
	if _, err := open.Read(make([]byte, 1)); err != nil {
		c.t.Fatal(err)
	}
	s.proc.Cmd.Process.Signal(syscall.SIGTERM)
	s.until("/readyz says that the server drains", func() bool {
		resp, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			c.t.Fatalf("/readyz went before it said why: %v", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == 503 {
			c.check(resp.Request, resp, "/readyz", 503, "")
		}
		return resp.StatusCode == 503
	})
}

// complete compares what was seen with what is documented.
func (c *checker) complete() {
	documented := map[string]bool{}
	for path, item := range openapiModel(c.t).Model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			for status := range op.Responses.Codes.FromOldest() {
				documented[strings.ToUpper(method)+" "+path+" "+status] = true
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(documented)) {
		if why, known := unprovoked[what]; !c.seen[what] && !known {
			c.t.Errorf("%s is documented, but was not provoked: add a case, or to unprovoked why there is none", what)
		} else if c.seen[what] && known {
			c.t.Errorf("%s was provoked: take it out of unprovoked (%s)", what, why)
		}
	}
	for what := range unprovoked {
		if !documented[what] {
			c.t.Errorf("unprovoked has %s, which is not documented", what)
		}
	}
}
