#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Compares Godwit with stop-and-copy, bare CRIU and others in a cluster;
# test/bench/main.go says what the environment chooses. artifacts/bench.json has every
# measurement, artifacts/bench a page of them. When everything was measured that is
# measured by default, that page becomes docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."

go build -o bin/bench ./test/bench
bin/bench plan | tail -n 1
# What runs outside of pods runs on a node, which has no C library of ours. memhog is
# built like that of its image.
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/node/ ./test/workloads/memhog ./test/bench/phaul
export NODE_TESTS=$PWD/bin/node
# Not grep -q, which would end before the plan does.
if [ "$(bin/bench plan | grep -c /podman)" != 0 ]; then
	archive=$(hack/images.sh podman)
	ln -sf "$archive" bin/node/podman.tar
fi

rm -f artifacts/bench.json
status=0
IMAGES="godwit memhog redis" hack/with-cluster.sh "${CLUSTER:-godwit-bench}" bin/bench || status=$?
if [ -s artifacts/bench.json ]; then
	bin/bench render -o artifacts/bench artifacts/bench.json
	if [ -z "${QUICK:-}${SIZES:-}${RATES:-}${PATTERNS:-}${REPS:-}${METHODS:-}${GRID:-}${RUN:-}" ] &&
		[ "$(grep -c '"method":' artifacts/bench.json)" = "$(bin/bench plan | grep -c /)" ]; then
		bin/bench render -o docs artifacts/bench.json
	fi
fi
exit $status
