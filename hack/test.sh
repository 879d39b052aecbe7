#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs everything: checks, model, unit tests, end-to-end tests, the short table of
# faults, demonstration. A step that fails does not keep the others from running.
# The last line counts the tests of all steps.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

mkdir -p artifacts bin
rm -f artifacts/*.json
failed=()
begun=$SECONDS

# step NAME COMMAND...: runs it, and says how long that took.
step() {
	local name=$1 from=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	if "$@"; then
		printf '=== %s: done after %d s\n' "$name" $((SECONDS - from))
	else
		printf '=== %s: FAILED after %d s\n' "$name" $((SECONDS - from))
		failed+=("$name")
	fi
}

# Filling the cluster's cache mostly compiles, but also waits for downloads and
# disks: the checks go on meanwhile.
prepare() { go build -o bin/cluster ./test/cluster && exec bin/cluster build; }
prepare >artifacts/cluster-build.log 2>&1 &
preparing=$!
trap 'kill "$preparing" 2>/dev/null' EXIT

step verify hack/verify.sh
step lint make --no-print-directory lint
step helm-lint make --no-print-directory helm-lint
# shellcheck disable=SC2317
finish_preparing() {
	wait "$preparing" || {
		tail -n 40 artifacts/cluster-build.log >&2
		return 1
	}
}
step "cluster build" finish_preparing
step model hack/model.sh
step unit hack/unit.sh
step e2e env CLUSTER=godwit-e2e hack/e2e.sh
step chaos env CLUSTER=godwit-chaos CHAOS=quick hack/chaos.sh
step demo env CLUSTER=godwit-demo hack/demo.sh

printf '\nAll steps took %d s.\n' $((SECONDS - begun))
status=0
if [ ${#failed[@]} -gt 0 ]; then
	status=1
	printf 'Failed: %s. Look into %s.\n' "$(IFS=, && echo "${failed[*]}")" "$PWD/artifacts"
fi
shopt -s nullglob
go run ./hack/testcount artifacts/*.json || status=1
exit $status
