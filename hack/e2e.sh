#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the end-to-end tests whose names match RUN in a cluster; without, all but those
# of the list below, or with LONG=1 only those (make e2e-long).
set -euo pipefail
cd "$(dirname "$0")/.."

go test -c -o bin/e2e.test ./test/e2e
# What tests the real adapters runs on a node, which has no C library of ours.
CGO_ENABLED=0 go test -c -ldflags '-s -w' -o bin/node/ ./node-agent/runtime/runtimetest ./node-agent/runtime/containerd ./node-agent/runtime/criu
CGO_ENABLED=0 go build -ldflags '-s -w' -o bin/node/ ./test/pinned
export NODE_TESTS=$PWD/bin/node
mkdir -p artifacts
# They take long, or show of other drainers, owners and sizes what a shorter one shows.
long=(
	TestADiskIsOneNodesOnly
	TestALargeOpenFile
	TestClusterAutoscaler
	TestConnectionsAreKept
	TestDrainAtScale
	TestDrainBothWays
	TestFailingEvacuations
	TestHandoffOfABarePod
	TestHandoffOfAStatefulSetsPod
	TestKarpenter
	TestLogsAreCarriedOver
	TestManagerRestartsDuringADrain
	TestOwnersIndexedJob
	TestOwnersRollback
	TestOwnersStatefulSetRestoresAgain
	TestSecondRestoreFails
	TestUncordonCancelsWhatIsQueued
)
long="^($(IFS='|' && echo "${long[*]}"))\$"
skip=
if [ -n "${LONG:-}" ]; then
	RUN=$long
elif [ -z "${RUN:-}" ]; then
	skip=$long
fi
# The driver of disks takes minutes to compile, and is for some of the long ones.
images="godwit memhog"
if [ -z "$skip" ]; then
	for name in TestADiskIsOneNodesOnly TestHandoffOfABarePod TestHandoffOfAStatefulSetsPod; do
		if [[ $name =~ $RUN ]]; then images="godwit memhog disks"; fi
	done
fi
# test2json makes of the test binary's output what go test -json prints.
IMAGES=$images exec hack/with-cluster.sh "${CLUSTER:-godwit-e2e}" \
	"$(hack/tool.sh gotestsum)" --format testname --jsonfile artifacts/e2e.json --raw-command -- \
	go tool test2json -t -p godwit.dev/godwit/test/e2e \
	bin/e2e.test -test.v=test2json -test.timeout "${TIMEOUT:-90m}" -test.run "${RUN:-.}" -test.skip "$skip"
