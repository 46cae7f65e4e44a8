# `make run` starts the server with throw-away secrets; `make test` runs every test. `make help` lists the rest.

GO          ?= go
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS     := -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Inputs, or a duration such as 10m. At the end of a duration Go 1.26 now and then fails for no reason (golang/go#75804).
FUZZTIME    ?= 30000x
SOAK        ?= 10m
DRAINS      ?= 50
CHAOS       ?= 100
# The program that an upgrade of a cluster begins with: a commit. Default: the first that has no known fault in clusters.
FROM        ?= 12188b41dcbc
# How long each calm and each attacked window of `make hostile` lasts.
HOSTILE     ?= 2s
BENCHSTAT   := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
BASE        ?= HEAD

.PHONY: help run cluster build test race lint fuzz crash loops soak hostile chaos upgrade interop drains browser screenshot client-ts openapi deploy clean bench bench-long bench-full bench-compare

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## start the server with throw-away secrets and print curl lines to paste
	./bin/rollcall serve --dev

cluster: build ## start three nodes on this machine with throw-away secrets and print curl lines to paste, and which process to kill
	./bin/rollcall cluster dev

build: ## build bin/rollcall
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/rollcall ./cmd/rollcall

test: ## run every test of every module; those of test/ and deploy/check read files that Go's test cache does not watch
	$(GO) test ./...
	$(GO) test -C bench ./...
	$(GO) test -C test -count=1 -timeout 30m ./...
	$(GO) test -C deploy/check -count=1 ./...

race: ## run the tests under the race detector; the slabs lie on the Go heap then, where it can see them
	$(GO) test -race -short ./...
	ROLLCALL_RACE=1 $(GO) test -C test -count=1 -run '^TestHistoriesUnderChurn$$'

lint: ## gofmt, vet on every system that the binary is for, staticcheck, and the rules of internal/lint
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	@for os in linux darwin freebsd windows; do echo "go vet for $$os" && GOOS=$$os $(GO) vet ./... || exit 1; done
	@for module in bench test deploy/check; do echo "go vet of $$module" && $(GO) vet -C $$module ./... || exit 1; done
	$(GO) test -count=1 ./internal/lint
	$(GO) test -C bench -count=1 ./cmd/report # pages and results say the same
	$(GO) run $(STATICCHECK) ./...

fuzz: ## run every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "fuzz $$pkg $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
	  done; \
	done

crash: build ## lose what was not synced some thousand times, fail every fourth file operation, kill -9 fifty times in checkpoints
	ROLLCALL_CRASH_SEEDS=20 ROLLCALL_FAULTS=4 $(GO) test -count=1 -run '^(TestCrash|TestEveryOperationFailing)$$' -v ./engine
	ROLLCALL_CRASH_ROUNDS=25 $(GO) test -C test -count=1 -run '^TestCrash$$' -v
	ROLLCALL_CRASH_ROUNDS=50 $(GO) test -C test -count=1 -run '^TestCrashInCheckpoint$$' -v

loops: ## compare servers with event loops and without, cut by cut, end 100,000 connections in every way, and run the suites that ask most of connections without loops; in some minutes
	ROLLCALL_LOOP_CUTS=61 ROLLCALL_LOOP_CONNECTIONS=100000 $(GO) test -count=1 -run '^TestLoop' -v ./server
	ROLLCALL_LOOPS=-1 $(GO) test -C test -count=1 -run '^Test(HostileClients|FrozenDisk|FullDisk|Reload|Pauses|KeepAlive|Pipelined|RacingEqualSeqs|TTL|DrainAnswers)' .

soak: ## churn for SOAK, and fail when memory, goroutines, descriptors or the disk grow
	ROLLCALL_SOAK=$(SOAK) $(GO) test -C test -count=1 -timeout 0 -run '^TestSoak$$' -v

chaos: ## take CHAOS clusters of three through kills, pauses, cuts, a full disk and a replaced node, in about a minute each; ROLLCALL_CHAOS_SEED=N repeats one
	ROLLCALL_CHAOS_SEEDS=$(CHAOS) $(GO) test -C test -count=1 -timeout 0 -run '^TestChaos$$' -v

upgrade: ## give three nodes of the commit FROM today's program, one after the other under load, and then take it back
	@if git cat-file -e '$(FROM)^{commit}' 2>/dev/null; then \
	  ROLLCALL_UPGRADE_FROM=$(FROM) $(GO) test -C test -count=1 -run '^TestUpgrade$$' -v; \
	else \
	  echo 'left out: this clone has no commit $(FROM); `git fetch --unshallow` gets the whole history' && \
	  $(if $(filter file,$(origin FROM)),true,false); \
	fi

hostile: ## attack a server in every way of docs/security.md, a minute each at most, and print what others feel; on a machine that does nothing else
	ROLLCALL_HOSTILE=$(HOSTILE) $(GO) test -C test -count=1 -timeout 0 -run '^TestHostileClients$$' -v

interop: client-ts ## install the npm clients that the interoperability tests use, and build the TypeScript client
	npm ci --silent --no-audit --no-fund --prefix test/interop

drains: ## take clients of other authors through DRAINS restarts, direct and through proxies, in twenty minutes; `make interop` first
	ROLLCALL_NO_SKIP=1 ROLLCALL_DRAINS=$(DRAINS) $(GO) test -C test -count=1 -timeout 0 -run '^TestInteropRestarts$$' -v

browser: ## try the page and browser streams in headless Chromium, which has to be there; `make test` does it if it is
	ROLLCALL_BROWSER=required $(GO) test -C test -count=1 -run '^TestBrowser'

screenshot: ## make docs/page.png, in two minutes
	ROLLCALL_BROWSER=required ROLLCALL_SCREENSHOT=$(CURDIR)/docs/page.png $(GO) test -C test -count=1 -run '^TestBrowserScreenshot$$'

client-ts: ## check and build the TypeScript client to client/ts/dist, its tests to client/ts/build
	npm ci --silent --no-audit --no-fund --prefix client/ts
	npm run --silent --prefix client/ts build

openapi: ## check docs/openapi.yaml against the answers of a running server; `make test` does it too
	$(GO) test -C test -count=1 -run '^TestOpenAPI'

deploy: ## check the Dockerfile and the files of deploy/: unit, manifests, alerts, dashboard; what a tool is missing for is left out
	cd deploy/check && $(GO) test -count=1 ./... # Go does not see when the files change that these tests read

clean: ## remove what the targets above made; data/ stays
	rm -rf bin test/interop/node_modules client/ts/node_modules client/ts/dist client/ts/build

bench: build ## measure for a quarter of an hour, on a machine that does nothing else; commit first. Raw files to bench/results/short, the docs' figures from them
	cd bench && $(GO) run ./cmd/measure -rollcall ../bin/rollcall -results results/short
	cd bench && $(GO) run ./cmd/report -results results/short -docs ../docs

bench-long: build ## measure what bench has no time for, in half an hour, at the same commit; ROLLCALL_BASE names an older program to set beside it
	cd bench && $(GO) run ./cmd/measure -long -rollcall ../bin/rollcall -results results/short
	cd bench && $(GO) run ./cmd/report -results results/short -docs ../docs

bench-full: build ## the same with 10 million devices and longer runs, in about an hour and 24 GiB; to bench/results/full
	cd bench && $(GO) run ./cmd/measure -full -rollcall ../bin/rollcall -results results/full
	cd bench && $(GO) run ./cmd/report -results results/full -docs ../docs

bench-compare: ## compare the files of bench/results/short with those of the commit BASE, with benchstat
	@base=$$(mktemp -d) && trap 'rm -rf "$$base"' EXIT && \
	git archive $(BASE) bench/results/short | tar -x -C "$$base" && \
	for f in bench/results/short/*.txt; do \
	  echo "== $$f" && $(GO) run $(BENCHSTAT) -table pkg "base=$$base/$$f" "now=$$f" || exit 1; \
	done
