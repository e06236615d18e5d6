# produce-agent: everything a developer or a reviewer runs.
GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT  := mvdan.cc/gofumpt@v0.10.0

.PHONY: build demo test check race lint format bench fuzz docs clean

build: ## bin/produce-agent
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/produce-agent ./cmd/produce-agent

demo: build ## ship the Go source tree and random bytes into the sandbox, read them back, compare
	$(GO) run ./bench/demo -binary bin/produce-agent

test: ## all tests
	$(GO) test -timeout 12m ./...
