#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Injects faults into migrations in a cluster: the whole table, which is then
# rendered in docs/reliability.md, the short one with CHAOS=quick, only pods of workload
# controllers with CHAOS=owners or only others with CHAOS=bare, or the runs that RUN
# matches. artifacts/chaos.json has the results; "bin/chaos render" takes several such
# files, of which the last that has a run counts.
set -euo pipefail
cd "$(dirname "$0")/.."

go build -o bin/chaos ./test/chaos
status=0
IMAGES="failpoints sequence" hack/with-cluster.sh "${CLUSTER:-godwit-chaos}" bin/chaos || status=$?
if [ -z "${RUN:-}${CHAOS:-}" ] && [ -s artifacts/chaos.json ]; then
	bin/chaos render artifacts/chaos.json >docs/reliability.md.new
	mv docs/reliability.md.new docs/reliability.md
fi
exit $status
