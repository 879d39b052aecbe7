#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs every test that needs no nodes, with the race detector. Arguments are
# packages, and flags of go test after them; without any, all packages.
set -euo pipefail
cd "$(dirname "$0")/.."

go build -o bin/cluster ./test/cluster
KUBEBUILDER_ASSETS=$(bin/cluster assets)
HELM=$(hack/tool.sh helm)
KUBECTL=$KUBEBUILDER_ASSETS/kubectl
export KUBEBUILDER_ASSETS HELM KUBECTL

mkdir -p artifacts
packages=("$@")
if [ ${#packages[@]} = 0 ]; then
	mapfile -t packages < <(go list ./... | grep -v -E '/test/(e2e|bench|chaos)($|/)')
fi
exec "$(hack/tool.sh gotestsum)" --format pkgname --format-hide-empty-pkg --jsonfile artifacts/unit.json \
	-- -race -timeout 10m "${packages[@]}"
