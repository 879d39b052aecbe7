#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the end-to-end tests whose names match RUN in a cluster; without, all but the long
# ones, or with LONG=1 only those (make e2e-long). PART=first takes of the others those
# of which each shows one of the things that Godwit is for, PART=rest what is left.
# With BEGIN_UNTIL, a time in Unix seconds, tests that would begin later are skipped.
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
first=(
	TestConformance
	TestDrain
	TestTamperedImageFile
	TestThereAndBack
	TestTrust
)
# any NAME... is the regular expression of these names.
any() { (IFS='|' && echo "^($*)\$"); }
long=$(any "${long[@]}")
part=${LONG:+long}${PART:-}
skip=
case $part in
long) RUN=$long ;;
first) RUN=$(any "${first[@]}") ;;
rest) RUN='' skip="$long|$(any "${first[@]}")" ;;
*) if [ -z "${RUN:-}" ]; then skip=$long; fi ;;
esac
# The driver of disks takes minutes to compile, and is for some of the long ones.
images="godwit memhog"
if [ -z "$skip" ]; then
	for name in TestADiskIsOneNodesOnly TestHandoffOfABarePod TestHandoffOfAStatefulSetsPod; do
		if [[ $name =~ $RUN ]]; then images="godwit memhog disks"; fi
	done
fi
# test2json makes of the test binary's output what go test -json prints.
IMAGES=$images exec hack/with-cluster.sh "${CLUSTER:-godwit-e2e}" \
	"$(hack/tool.sh gotestsum)" --format testname --jsonfile "artifacts/e2e${part:+-$part}.json" --raw-command -- \
	go tool test2json -t -p godwit.dev/godwit/test/e2e \
	bin/e2e.test -test.v=test2json -test.timeout "${TIMEOUT:-90m}" -test.run "${RUN:-.}" -test.skip "$skip"
