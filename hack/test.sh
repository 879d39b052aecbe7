#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs checks, model, unit tests, and in one cluster the demonstration, the end-to-end
# tests but for those that take long (make e2e-long), and the short table of faults. A
# step that fails does not keep the others from running. The last line counts the tests
# of all steps.
#
# How long all that takes differs a lot between hosts. Who has no more than some time
# says so with BUDGET, in minutes: after that no step and no scenario begins on the nodes
# any more. What was not begun is named, or counted as skipped. The most telling ones come
# first.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

mkdir -p artifacts bin
rm -f artifacts/*.json
failed=() left_out=()
begun=$SECONDS
if [ -n "${BUDGET:-}" ]; then
	export BEGIN_UNTIL=$(($(date +%s) + BUDGET * 60))
fi

# step NAME COMMAND...: runs it, and says how long that took.
step() {
	local name=$1 from=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	if LOGS=$name "$@"; then
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
# What runs in a cluster shares one, as long as it succeeds.
cluster=godwit-test
# on_nodes NAME COMMAND... is a step there, unless it is too late to begin one.
on_nodes() {
	if [ -n "${BEGIN_UNTIL:-}" ] && [ "$(date +%s)" -gt "$BEGIN_UNTIL" ]; then
		left_out+=("$1")
	else
		step "$1" env SHARED=1 CLUSTER="$cluster" "${@:2}"
	fi
}
remove_cluster() { bin/cluster --name "$cluster" down --force >&2; }
finish() {
	if [ -n "$preparing" ]; then kill "$preparing" 2>/dev/null; fi
	remove_cluster
}
trap finish EXIT

step verify hack/verify.sh
step lint make --no-print-directory lint
step helm-lint make --no-print-directory helm-lint
# shellcheck disable=SC2317
finish_preparing() {
	local status=0
	wait "$preparing" || status=$?
	preparing=
	if [ $status != 0 ]; then tail -n 40 artifacts/cluster-build.log >&2; fi
	return $status
}
step "cluster build" finish_preparing
step model hack/model.sh
step unit hack/unit.sh
remove_cluster # what a run that was killed may have left
on_nodes demo hack/demo.sh
on_nodes e2e-first PART=first hack/e2e.sh
on_nodes chaos CHAOS=quick hack/chaos.sh
on_nodes e2e-rest PART=rest hack/e2e.sh

remove_cluster
printf '\nAll steps took %d s.\n' $((SECONDS - begun))
status=0
if [ ${#left_out[@]} -gt 0 ]; then
	printf 'Not begun, for the %s minutes were over: %s.\n' "$BUDGET" "$(IFS=, && echo "${left_out[*]}")"
fi
if [ ${#failed[@]} -gt 0 ]; then
	status=1
	printf 'Failed: %s. Look into %s.\n' "$(IFS=, && echo "${failed[*]}")" "$PWD/artifacts"
fi
shopt -s nullglob
go run ./hack/testcount artifacts/*.json || status=1
exit $status
