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
# The detector would have every test binary sleep a second before it exits.
GORACE=atexit_sleep_ms=10
export KUBEBUILDER_ASSETS HELM KUBECTL GORACE

mkdir -p artifacts
gotestsum=$(hack/tool.sh gotestsum)
# run JSONFILE ARGUMENTS... runs go test. Vetting is the linters' business, and
# without DWARF linking takes half as long; stack traces do not need it.
run() {
	"$gotestsum" --format pkgname --format-hide-empty-pkg --jsonfile "artifacts/$1.json" \
		-- -vet=off -ldflags=-w -timeout 25m "${@:2}"
}
if [ $# -gt 0 ]; then
	run unit -race "$@"
	exit
fi

# Packages of pure functions have nothing to race, and are searched exhaustively:
# the detector makes that ten times as long and finds nothing.
pure=internal/migration
if grep -nE '^\s*go |\.Go\(|\bParallel\(' $pure/*.go; then
	echo "unit: $pure starts goroutines: take it out of the list in $0" >&2
	exit 1
fi
run unit-pure ./$pure &

# Those that wait most come first, so that others are compiled meanwhile.
first=(./controllers ./test/integration ./test/install)
mapfile -t rest < <(go list ./... | grep -v -E "/test/(e2e|integration|install)($|/)|/controllers$|/$pure$")
status=0
run unit -race "${first[@]}" "${rest[@]}" || status=1
wait $! || status=1
exit $status
