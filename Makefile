# produce-agent: everything a developer or a reviewer runs.
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X main.version=$(VERSION)
GOFUMPT   := mvdan.cc/gofumpt@v0.12.0
GOLANGCI  := v2.15.0
CHECK_LINT ?= 1
FUZZTIME  ?= 30s
SOAK_TIME ?= 10m
TESTFLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help build demo test integration check format vet lint race tidy bench fuzz soak docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/produce-agent, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/produce-agent ./cmd/produce-agent

demo: build ## ship the Go source tree and random bytes into the sandbox, read them back, compare
	$(GO) run ./bench/demo -binary bin/produce-agent

test: ## all tests; needs nothing but Go
	$(GO) test $(TESTFLAGS) -timeout 12m ./...

integration: ## a real Kafka of three brokers behind the gateway, some 4 minutes; SKIP without Java and Maven; see docs/integration.md
	PRODUCE_AGENT_INTEGRATION=1 $(GO) test ./cmd/produce-agent -count=1 -v -timeout 10m -run '^TestKafka'

check: format vet tidy lint race ## what a reviewer runs; CHECK_LINT=0 leaves golangci-lint out
	@echo "check: all good"

format: ## fails when gofumpt would change a file
	@out=$$($(GO) run $(GOFUMPT) -l .) || exit 1; \
	if [ -n "$$out" ]; then echo "not formatted; run '$(GO) run $(GOFUMPT) -w .':"; echo "$$out"; exit 1; fi

vet: ## go vet
	$(GO) vet ./...

tidy: ## fails when go.mod or go.sum is not what the code needs, or a module was changed
	$(GO) mod tidy -diff
	$(GO) mod verify

# golangci-lint takes some three CPU-minutes to build, once.
lint: ## golangci-lint by .golangci.yml
ifeq ($(CHECK_LINT),0)
	@echo "lint: LEFT OUT, for CHECK_LINT=0"
else
	@lint=$$(command -v golangci-lint || echo "$$($(GO) env GOPATH)/bin/golangci-lint"); \
	if ! "$$lint" version 2>/dev/null | grep -q "version v\{0,1\}$(GOLANGCI:v%=%) "; then \
		lint="$${XDG_CACHE_HOME:-$$HOME/.cache}/produce-agent/golangci-lint-$(GOLANGCI)/golangci-lint"; \
		[ -x "$$lint" ] || { echo "lint: building golangci-lint $(GOLANGCI), once"; \
			GOBIN=$$(dirname "$$lint") $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI); } || exit 1; \
	fi; \
	"$$lint" run ./...

endif

race: ## all tests under the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

bench: ## CPU, memory and latency against bench/blast, kept in bench/RESULTS.md; see docs/performance.md
	$(GO) run ./bench/run -o bench/RESULTS.md

fuzz: ## every fuzz target for FUZZTIME (30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz: $$target in $$pkg for $(FUZZTIME)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

soak: ## kills, stops and a backlog at length, then faults by chance for SOAK_TIME (10m); see docs/reliability.md
	ORACLE_KILLS=50 ORACLE_STOPS=100 ORACLE_BACKLOG=1024 ORACLE_STALL=10m \
		$(GO) test ./cmd/produce-agent -count=1 -v -timeout 0 -run '^TestOracle(Kill|Stop|Backlog|StalledMemory)$$'
	SOAK_TIME=$(SOAK_TIME) $(GO) test ./cmd/produce-agent -count=1 -v -timeout 0 -run '^TestOracleSoak$$'

docs: ## rewrite docs/flags.md and the help texts in testdata from the commands
	$(GO) test ./cmd/produce-agent -run '^TestDocs' -update

clean: ## what build left
	rm -rf bin
