# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Name of the cluster that the cluster-* targets work on.
CLUSTER ?= godwit
# What e2e, demo, chaos, compat and bench take from the command line.
export BUDGET RUN KEEP COMPARE TIMEOUT CHAOS SEED QUICK SIZES RATES PATTERNS REPS METHODS GRID

# Everything but help needs Go: a new enough one is put first in PATH.
ifneq ($(filter-out help,$(or $(MAKECMDGOALS),help)),)
GO_DIR := $(shell hack/ensure-go.sh)
ifeq ($(GO_DIR),)
$(error there is no Go toolchain)
endif
export PATH := $(GO_DIR):$(PATH)
endif

GOLANGCI_LINT_CACHE ?= $(or $(GODWIT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/godwit)/golangci-lint
export GOLANGCI_LINT_CACHE

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Develop

.PHONY: build
build: ## Compile all programs into bin/
	go build -o bin/ ./cmd/...
	go build -o bin/agent ./node-agent
	go build -o bin/cluster ./test/cluster
	go build -o bin/images ./test/images

.PHONY: generate manifests
generate: ## Make deep copies, definitions, roles, the chart's copies and docs/api.md anew
	hack/generate.sh
manifests: generate ## The same

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

##@ Check

.PHONY: verify
verify: ## Fail if a generated file or go.mod is not up to date
	hack/verify.sh

.PHONY: vet
vet: ## Run go vet
	go vet ./...

.PHONY: lint
lint: ## Run the linters, which also keep the table of imports
	"$$(hack/tool.sh golangci-lint)" run

.PHONY: helm-lint
helm-lint: ## Check the chart
	"$$(hack/tool.sh helm)" lint --strict --kube-version 1.37 charts/godwit

.PHONY: unit
unit: ## Run every test that needs no nodes (PKG=./internal/... for some)
	hack/unit.sh $(PKG)

.PHONY: model
model: ## Search the model of the handover, whole and without each guard (RUN=regexp)
	hack/model.sh

.PHONY: e2e
e2e: ## Run the end-to-end tests (RUN=regexp for some, KEEP=1 keeps the cluster)
	hack/e2e.sh

.PHONY: e2e-long
e2e-long: ## Run the end-to-end tests that take long: drains of every kind, thirty pods, volumes and connections that follow a pod, restores that fail late
	LONG=1 hack/e2e.sh

.PHONY: chaos
chaos: ## Break one thing at one step of a migration, for each of a table (CHAOS=quick|owners|bare, RUN=regexp, SEED=n, KEEP=1)
	hack/chaos.sh

.PHONY: demo
demo: ## Move a database under load and report (COMPARE=1 measures stop-and-copy too, KEEP=1)
	hack/demo.sh

.PHONY: bench
bench: ## Compare with stop-and-copy, bare CRIU and others (QUICK=1, GRID=full, RUN=regexp, KEEP=1; test/bench/main.go has more)
	hack/bench.sh

.PHONY: compat
compat: ## Move real software there and back, and make docs/compatibility.md (RUN=regexp for some, KEEP=1)
	hack/compat.sh

.PHONY: gobench
gobench: ## Run the Go benchmarks
	go test -run '^$$' -bench . -benchmem $$(go list ./... | grep -v /test/)

.PHONY: test
test: ## Run all that CI runs: everything but e2e-long, compat, bench and the whole table of faults (BUDGET=minutes begins no scenario after that)
	hack/test.sh

##@ Images

.PHONY: image
image: ## Build our own image from the Dockerfile, without a registry
	hack/images.sh build godwit

.PHONY: images
images: ## Build all images, those of the tests' workloads too
	hack/images.sh build

##@ Cluster (CLUSTER=name, default godwit)

bin/cluster: FORCE
	go build -o $@ ./test/cluster
FORCE:

.PHONY: cluster-build cluster-up cluster-load cluster-down cluster-ssh cluster-kubectl cluster-logs
cluster-build: bin/cluster ## Fill the cache with all that a cluster is made of
	bin/cluster build
cluster-up: bin/cluster ## Start a cluster of two virtual machines
	bin/cluster --name $(CLUSTER) up
cluster-load: bin/cluster ## Build all images and import them on the nodes
	bin/cluster --name $(CLUSTER) load-image $$(hack/images.sh build | awk '{ print $$3 }')
cluster-down: bin/cluster ## Remove the cluster
	bin/cluster --name $(CLUSTER) down --force
cluster-ssh: bin/cluster ## Log in to a node (NODE=n1)
	bin/cluster --name $(CLUSTER) ssh $(or $(NODE),$(error NODE=n1 or n2 is missing))
cluster-kubectl: bin/cluster ## Run kubectl (ARGS='get pods -A')
	bin/cluster kubectl --name $(CLUSTER) $(ARGS)
cluster-logs: bin/cluster ## Collect the logs of all parts in artifacts/
	bin/cluster --name $(CLUSTER) logs
