#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the end-to-end tests whose names match RUN (all without) in a cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

go test -c -o bin/e2e.test ./test/e2e
mkdir -p artifacts
# test2json makes of the test binary's output what go test -json prints.
exec hack/with-cluster.sh "${CLUSTER:-godwit-e2e}" \
	"$(hack/tool.sh gotestsum)" --format testname --jsonfile artifacts/e2e.json --raw-command -- \
	go tool test2json -t -p godwit.dev/godwit/test/e2e \
	bin/e2e.test -test.v=test2json -test.timeout "${TIMEOUT:-60m}" -test.run "${RUN:-.}"
